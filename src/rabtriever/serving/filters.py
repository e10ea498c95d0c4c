"""A filter that comes from outside is data: columns, constants and comparisons, and nothing else."""

from __future__ import annotations

import re

from rabtriever.errors import InputError

LONGEST, DEEPEST, MOST = 2000, 32, 64  # characters, parentheses, operators: a planner recurses over each
COLUMNS = frozenset({"id", "title", "text", "metadata"})
WORDS = frozenset(
    {"and", "or", "not", "in", "like", "ilike", "escape", "is", "null", "true", "false", "between"},
)
OPERATORS = frozenset({"and", "or", "not", "like", "ilike", "between", "is"})
FUNCTIONS = frozenset(
    {
        *("lower", "upper", "length", "starts_with", "ends_with", "contains"),
        *("json_get_string", "json_get_int", "json_get_float", "json_get_bool", "json_exists", "json_extract"),
        *("json_array_contains", "json_array_length"),
    }
)
TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>\d+(?:\.\d+)?(?![\w.]))|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<sign><=|>=|<>|!=|[=<>(),+*/%-]))",
    re.ASCII,
)


def validate_filter(where: str) -> None:
    """Refuse what is more than a comparison of the documents' columns.

    Args:
        where: An SQL condition.

    Raises:
        InputError: it is too long or too deep, or holds something that is not known to be harmless.
    """
    if not where.strip():
        raise InputError("where: blank; leave it out, or give a condition such as title LIKE 'A%'")
    if len(where) > LONGEST:
        raise InputError(f"where: {len(where)} characters; at most {LONGEST}")
    place, depth, operators, where = 0, 0, 0, where.rstrip()
    while place < len(where):
        token = TOKEN.match(where, place)
        if token is None:
            raise InputError(f"where: cannot read {where[place:].strip()[:20]!r}")
        place = token.end()
        depth += {"(": 1, ")": -1}.get(token["sign"] or "", 0)
        if not 0 <= depth <= DEEPEST:
            raise InputError("where: parentheses do not match" if depth < 0 else f"where: deeper than {DEEPEST}")
        word = (token["word"] or "").lower()
        operators += word in OPERATORS or (token["sign"] or ",") not in ",()"
        if operators > MOST:
            raise InputError(f"where: more than {MOST} operators; use IN for many values")
        called = word not in WORDS and where[place:].lstrip().startswith("(")
        if word and word not in WORDS and word not in (FUNCTIONS if called else COLUMNS):
            known = ", ".join(sorted(FUNCTIONS if called else COLUMNS))
            raise InputError(
                f"where: {token['word']!r} is no {'function' if called else 'column'} here; known: {known}"
            )
