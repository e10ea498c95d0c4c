"""What a document's metadata may hold: JSON that the index's table gives back as it came."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from rabtriever.errors import has_half_character, shorten

MAX_DEPTH = 16
INTEGERS = range(-(2**63), 2**64)  # that the table holds


def why_not_storable(metadata: Mapping[str, Any], integers: range = INTEGERS) -> str | None:
    """Returns why metadata would not come back as they are, with the remedy; None if they would."""
    return _fault(dict(metadata), integers, 0)


def _fault(value: object, integers: range, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} deep; make it flatter"
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return f"the key {shorten(key)} is no string; write it as one"
        return _first_fault([*value, *value.values()], integers, depth + 1)
    if isinstance(value, list):
        return _first_fault(value, integers, depth + 1)
    if isinstance(value, str):
        return "half of a surrogate pair; write the character whole" if has_half_character(value) else None
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        largest = f"a number beyond {integers.stop - 1}; write it as a string"
        return None if value in integers else largest
    if isinstance(value, float):
        return None if isfinite(value) else "NaN or infinite; write null"
    return f"a {type(value).__name__} is no JSON value; use a string, number, list, dict, bool or None"


def _first_fault(values: list[Any], integers: range, depth: int) -> str | None:
    return next((fault for value in values if (fault := _fault(value, integers, depth))), None)
