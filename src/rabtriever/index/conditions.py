"""SQL conditions over metadata that have no schema: a value of another kind is null, not an error.

Lance's ``json_get_int`` and its like fail on the first value that they cannot cast, and with it the whole search, and
round fractions. So each call is rewritten before Lance sees it: the value is read as JSON text, and cast if that text
is of the kind that is asked for.
"""

from __future__ import annotations

import re

TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\w+|\s+|.", re.DOTALL)
# Function -> SQL type, and the JSON texts that it takes; numbers and truth values may be written as strings.
CASTS = {
    "json_get_int": ("BIGINT", '^"?(-?[0-9]+)(?:[.]0+)?"?$'),
    "json_get_float": ("DOUBLE", '^"?(-?[0-9.]+(?:[eE][-+]?[0-9]+)?)"?$'),
    "json_get_bool": ("BOOLEAN", '^"?(true|false)"?$'),
}
NO_SCALAR = r"^(?:[{]|\[)"


def tolerate_other_kinds(where: str) -> str:
    """Returns an SQL condition in which a metadata value of another kind than a ``json_get_...`` asks for is null."""
    tokens = TOKEN.findall(where)
    result, position = [], 0
    while position < len(tokens):
        name = tokens[position].strip('"').lower()
        call = _read_call(tokens, position + 1) if name in CASTS or name == "json_get_string" else None
        if call is None:
            result.append(tokens[position])
            position += 1
        else:
            (json, key), position = call
            result.append(_rewritten(name, tolerate_other_kinds(json), tolerate_other_kinds(key)))
    return "".join(result)


def _read_call(tokens: list[str], position: int) -> tuple[tuple[str, str], int] | None:
    """Returns the two arguments between parentheses, and the position behind them; None if there is something else."""
    while position < len(tokens) and tokens[position].isspace():
        position += 1
    if tokens[position : position + 1] != ["("]:
        return None
    arguments, depth = [""], 0
    for i in range(position, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[i], 0)
        if depth == 0:
            return ((arguments[0][1:], arguments[1]), i + 1) if len(arguments) == 2 else None
        if depth == 1 and tokens[i] == ",":
            arguments.append("")
        else:
            arguments[-1] += tokens[i]
    return None


def _rewritten(function: str, json: str, key: str) -> str:
    def matched(pattern: str) -> str:
        return f"array_to_string(regexp_match(json_extract(json_get({json}, {key}), '$'), '{pattern}'), '')"

    if function in CASTS:
        kind, pattern = CASTS[function]
        return f"TRY_CAST({matched(pattern)} AS {kind})"
    # All scalars have a text. The key of a list or an object becomes null: the second argument is null for all others.
    return f"json_get_string({json}, nullif({key}, {key} || left({matched(NO_SCALAR)}, 0)))"
