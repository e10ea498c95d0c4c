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
        raise _invalid("blank; leave it out, or give a condition such as title LIKE 'A%'")
    if len(where) > MAX_LENGTH:
        raise _invalid(f"{len(where)} characters; at most {MAX_LENGTH}")
    position, depth, operators, where = 0, 0, 0, where.rstrip()
    while position < len(where):
        token = TOKEN.match(where, position)
        if token is None:
            raise _invalid(f"cannot read {where[position:].strip()[:20]!r}")
        position = token.end()
        depth += {"(": 1, ")": -1}.get(token["sign"] or "", 0)
        if not 0 <= depth <= MAX_DEPTH:
            raise _invalid("parentheses do not match" if depth < 0 else f"deeper than {MAX_DEPTH}")
        word = (token["word"] or "").lower()
        operators += word in OPERATORS or (token["sign"] or ",") not in ",()"
        if operators > MAX_OPERATORS:
            raise _invalid(f"more than {MAX_OPERATORS} operators; use IN for many values")
        called = word not in WORDS and where[position:].lstrip().startswith("(")
        if word and word not in WORDS and word not in (FUNCTIONS if called else COLUMNS):
            supported = ", ".join(sorted(FUNCTIONS if called else COLUMNS))
            kind = "function" if called else "column"
            raise _invalid(f"{token['word']!r} is not a {kind} here; supported: {supported}")


def _invalid(reason: str) -> InputError:
    return InputError(f"where: {reason}", param="where")
