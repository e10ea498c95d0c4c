"""Feedback of an index's searches: a Lance table beside that of its documents, which no search reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rabtriever.data import FeedbackEvent
from rabtriever.index.lance_errors import LANCE_ERRORS, is_conflict, table_errors, write_errors
from rabtriever.index.table import Table

if TYPE_CHECKING:
    import lancedb

TABLE = "feedback"
SCHEMA = pa.schema(
    {
        "query": pa.utf8(),
        "id": pa.utf8(),
        "shown": pa.list_(pa.utf8()),
        "succeeded": pa.bool_(),
        "time": pa.float64(),
        "digest": pa.utf8(),
        "state": pa.list_(pa.float16()),
    }
)
ATTEMPTS = 20  # to append while others do; Lance itself tries several times in each
VERSIONS_PER_OPTIMIZE = 100  # each append makes one, and a file
RETENTION = timedelta(hours=1)  # nobody opens a past version; a read in progress may


class FeedbackStore:
    """The feedback of an index; any number of processes may append at the same time.

    Args:
        uri: The index: a folder or object-store URI.

    Raises:
        NotFoundError, CorruptIndexError, InputError: as of :meth:`rabtriever.Index.open`.
    """

    def __init__(self, uri: str | Path) -> None:
        index = Table.open(str(uri))
        self.uri, self._connection = index.uri, index.connection

    def append(self, events: Sequence[FeedbackEvent]) -> None:
        """Stores events in one transaction; a process that is killed after this returns loses none of them.

        Args:
            events: Those without a time get the present one; a ``state`` is stored as float16.

        Raises:
            StorageError: the table cannot be written; none of them is stored.
        """
        if not events:
            return
        with write_errors(self.uri):
            table = self._add(_to_arrow(events))
        if table.version % VERSIONS_PER_OPTIMIZE == 0:
            with suppress(*LANCE_ERRORS):  # the events are stored; a later append tries again
                table.optimize(cleanup_older_than=RETENTION)

    def read(self) -> list[FeedbackEvent]:
        """Returns all events, in the order of time; none if nothing was ever stored.

        Raises:
            CorruptIndexError: the table is damaged.
        """
        with table_errors(self.uri):
            table = self._open()
            if table is None:
                return []
            rows = table.to_arrow().select(SCHEMA.names)
        rows = rows.take(np.argsort(rows["time"].to_numpy(), kind="stable"))
        states = [row.values.to_numpy(zero_copy_only=False) if row.is_valid else None for row in rows["state"]]
        others = rows.drop_columns("state").to_pylist()
        return [
            FeedbackEvent(**{**row, "shown": tuple(row["shown"])}, state=state)
            for row, state in zip(others, states, strict=True)
        ]

    def _add(self, rows: pa.Table) -> lancedb.table.Table:
        """Adds rows, again if another writer was first; returns the table."""
        attempt = 0
        while True:
            attempt += 1
            try:
                table = self._open()
                if table is None:  # `or` would take an empty table for none
                    table = self._connection.create_table(TABLE, schema=SCHEMA)
                table.add(rows)
                return table
            except LANCE_ERRORS as error:
                if attempt == ATTEMPTS or not is_conflict(error):
                    raise
                time.sleep(np.random.default_rng().uniform(0, 0.01 * attempt))  # so that writers do not go in step

    def _open(self) -> lancedb.table.Table | None:
        """Opens the latest version, if there is a table."""
        return self._connection.open_table(TABLE) if TABLE in self._connection.list_tables().tables else None


def _to_arrow(events: Sequence[FeedbackEvent]) -> pa.Table:
    columns = {field.name: [getattr(event, field.name) for event in events] for field in fields(FeedbackEvent)}
    now = time.time()
    columns["time"] = [now if moment is None else moment for moment in columns["time"]]
    columns["state"] = [None if state is None else np.asarray(state, np.float16) for state in columns["state"]]
    return pa.table(columns, SCHEMA)
