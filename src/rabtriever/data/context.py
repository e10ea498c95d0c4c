"""What came before a request, as part of the query's text: earlier turns, and documents that were chosen already."""

from __future__ import annotations

from collections.abc import Sequence

# Characters. Models read some 224 tokens of a query, about 900 characters, and of a longer one the end. So turns come
# first and steps last: with at most MAX_USED behind it, a request of 600 characters is still read as a whole.
MAX_HISTORY = 400
MAX_USED = 300
MAX_STEP = 100  # of one step: the beginning of a text, where there is no title
DONE = "Done so far: "


def with_context(request: str, history: Sequence[str] = (), used: Sequence[str] = ()) -> str:
    """Returns a query that says what came before: the turns, one a line, the request, and a line of the steps done.

    The oldest turns and steps are left out where all would take more than :data:`MAX_HISTORY` and :data:`MAX_USED`
    characters. A turn longer than that keeps its end, a step of more than :data:`MAX_STEP` its beginning. The request
    is never cut.

    Train on queries that this function made, and it will be read as it was learnt.

    Args:
        request: What is asked now.
        history: Earlier turns of the conversation, oldest first; who spoke may stand before each (``User: ...``).
        used: Titles of the documents that were chosen already, or texts of those that have none, oldest first.

    Returns:
        The text; the request as it is, if there is neither history nor used.
    """
    turns = _newest([turn[-MAX_HISTORY:] for turn in _lines(history)], MAX_HISTORY, "\n")
    steps = _newest([step[:MAX_STEP] for step in _lines(used)], MAX_USED, "; ")
    return "\n".join([*turns, request, *([DONE + "; ".join(steps)] if steps else [])])


def _newest(texts: list[str], budget: int, separator: str) -> list[str]:
    """Returns as many of the last texts as the budget holds with separators between them."""
    start, size = len(texts), -len(separator)
    while start and size + len(separator) + len(texts[start - 1]) <= budget:
        start -= 1
        size += len(separator) + len(texts[start])
    return texts[start:]


def _lines(texts: Sequence[str]) -> list[str]:
    """Returns each text as one line, without blank ones."""
    return [line for text in texts if (line := " ".join(text.split()))]
