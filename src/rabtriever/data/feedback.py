"""Feedback of searches: what was asked, what was shown, and what was chosen of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabtriever.data.beir import read_rows, read_string, read_value
from rabtriever.errors import InputError, NotFoundError, shorten
from rabtriever.persistence.folder import local_path

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class FeedbackEvent:
    """What one search led to.

    Attributes:
        query: Its text; None if texts are not kept.
        id: The document that was chosen; None: none of those shown.
        shown: Ids of the documents that were shown, best first; may be empty.
        succeeded: Whether using the chosen document worked.
        time: Seconds since 1970, UTC; None if unknown.
        digest: Stands for the text where that is not kept; equal texts have equal ones.
        state: float16 (H,), the encoder's embedding of the query.
    """

    query: str | None
    id: str | None
    shown: tuple[str, ...] = ()
    succeeded: bool = True
    time: float | None = None
    digest: str | None = None
    state: np.ndarray | None = None


def read_feedback(path: str | Path) -> list[FeedbackEvent]:
    """Reads feedback, in file order.

    Args:
        path: A JSONL file. A line has ``query`` and ``id`` (or ``document``), ``shown`` (a list of ids) or both, and
            optionally ``succeeded`` (true if missing) and ``time``: seconds since 1970, or ISO 8601, UTC if it names
            no zone. Further keys are ignored.

    Raises:
        NotFoundError: there is no such file.
        InputError: a line is malformed, or there is none; the message names file and line.
    """
    path = local_path(path)
    if not path.is_file():
        raise NotFoundError(f"{path} is missing: give a JSONL file of feedback, each line with a query and an id")
    events = list(_events(path))
    if not events:
        raise InputError(f"{path} is empty: give feedback, each line with a query and an id")
    return events


def _events(path: Path) -> Iterator[FeedbackEvent]:
    for location, row in read_rows(path):
        query = read_string(row, "query", location)
        if not query.strip():
            raise InputError(f"{location}: the query is missing or blank: give its text")
        chosen = read_string(row, "id" if "id" in row else "document", location) or None
        shown = _shown(row, location)
        if chosen is None and not shown:
            raise InputError(f"{location}: no id and nothing shown: give the id that was chosen, or those shown")
        succeeded = row.get("succeeded") is None or read_value(row, "succeeded", bool, location)
        yield FeedbackEvent(query, chosen, shown, succeeded, _time(row, location))


def _shown(row: dict[str, Any], location: str) -> tuple[str, ...]:
    ids = {f"shown[{i}]": value for i, value in enumerate(read_value(row, "shown", list, location))}
    for key in ids:
        if not read_string(ids, key, location):
            raise InputError(f"{location}: {key} is empty: give a document's id, or leave it out")
    return tuple(ids.values())


def _time(row: dict[str, Any], location: str) -> float | None:
    """Returns the seconds since 1970, if there is a time."""
    value = row.get("time")
    if value is None:
        return None
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            return float(value)
    except (ValueError, OverflowError):
        pass
    form = "it should be seconds since 1970, or ISO 8601 such as 2025-01-31T12:00:00Z"
    raise InputError(f"{location}: time is {shorten(value)}; {form}")
