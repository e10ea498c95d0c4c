"""Filters of requests: columns, constants and comparisons, and nothing else of SQL."""

from __future__ import annotations

import re

from rabtriever.errors import InputError

MAX_LENGTH, MAX_DEPTH, MAX_OPERATORS = 2000, 32, 64  # characters, parentheses: a planner recurses over each
COLUMNS = frozenset("id title text metadata".split())
OPERATORS = frozenset("and or not like ilike between is".split())
WORDS = OPERATORS | frozenset("in escape null true false".split())
FUNCTIONS = frozenset(
    "lower upper length starts_with ends_with contains json_get_string json_get_int json_get_float json_get_bool "
    "json_exists json_extract json_array_contains json_array_length".split()
)
TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>\d+(?:\.\d+)?(?![\w.]))|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<sign><=|>=|<>|!=|[=<>(),+*/%-]))",
    re.ASCII,
)


def validate_filter(where: str) -> None:
    """Raises an InputError if an SQL condition is too long or too deep, or holds what is not on the lists above."""
    if not where.strip():
        raise InputError("where: blank; leave it out, or give a condition such as title LIKE 'A%'", param="where")
    if len(where) > MAX_LENGTH:
        raise InputError(f"where: {len(where)} characters; give at most {MAX_LENGTH}", param="where")
    position, depth, operators, where = 0, 0, 0, where.rstrip()
    while position < len(where):
        token = TOKEN.match(where, position)
        if token is None:
            rest = where[position:].strip()[:20]
            raise InputError(f"where: cannot read {rest!r}; compare columns with constants", param="where")
        position = token.end()
        depth += {"(": 1, ")": -1}.get(token["sign"] or "", 0)
        if depth < 0:
            raise InputError("where: parentheses do not match; close as many as you open", param="where")
        if depth > MAX_DEPTH:
            raise InputError(f"where: deeper than {MAX_DEPTH} parentheses; leave some out", param="where")
        word = (token["word"] or "").lower()
        operators += word in OPERATORS or (token["sign"] or ",") not in ",()"
        if operators > MAX_OPERATORS:
            raise InputError(f"where: more than {MAX_OPERATORS} operators; use IN for many values", param="where")
        called = word not in WORDS and where[position:].lstrip().startswith("(")
        if word and word not in WORDS and word not in (FUNCTIONS if called else COLUMNS):
            supported = ", ".join(sorted(FUNCTIONS if called else COLUMNS))
            kind = "function" if called else "column"
            raise InputError(f"where: {token['word']!r} is no {kind} here; supported: {supported}", param="where")
