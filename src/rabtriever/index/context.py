"""Context of a search: what a caller gives beside the queries, checked, and put into their text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rabtriever.data import Document, with_context
from rabtriever.errors import InputError, check_texts, shorten

Lists = Sequence[Sequence[str]]


def add_context(
    queries: Sequence[str], history: Lists | None, used: Lists | None, get: Callable[[Sequence[str]], list[Document]]
) -> list[str]:
    """Returns the queries as models read them; arguments and errors as of :meth:`rabtriever.Index.with_context`.

    Args:
        queries: n queries.
        history: n lists of turns, or None.
        used: n lists of ids, or None.
        get: Returns the documents of some ids that exist.
    """
    turns, ids = _lists("history", history, len(queries)), _lists("used", used, len(queries))
    if not any([*turns, *ids]):
        return list(queries)
    check_texts("query", queries)  # a blank one would not be seen between its context
    different = list(dict.fromkeys(identifier for of_query in ids for identifier in of_query))
    names = {document.id: document.title.strip() or document.text for document in get(different)}
    missing = [identifier for identifier in different if identifier not in names]
    if missing:
        raise InputError(f"used: no document {shorten(missing[0])} in the index; leave it out", param="used")
    return [
        with_context(query, before, [names[identifier] for identifier in chosen])
        for query, before, chosen in zip(queries, turns, ids, strict=True)
    ]


def _lists(name: str, values: Lists | None, n: int) -> Lists:
    """Returns the list of each of n queries; empty ones for None."""
    if values is None:
        return [[]] * n
    if not isinstance(values, Sequence) or len(values) != n:
        fault = f"expected a list for each of {n} queries; give an empty one where there is nothing"
        raise InputError(f"{name}: {fault}", param=name)
    for texts in values:
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            message = f"{name}: expected a list of texts, got {shorten(texts)}; wrap it in a list"
            raise InputError(message, param=name)
        check_texts(name, texts)
    return values
