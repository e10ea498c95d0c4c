"""The view that searches use: of the latest version, or of the past one that was opened."""

from __future__ import annotations

from threading import Lock
from typing import Any

from rabtriever.index.segments import Segments
from rabtriever.index.table import Table
from rabtriever.index.view import EXACT_UP_TO, View


class CurrentView:
    """A view that follows its table; thread-safe. Arguments and errors as of :meth:`rabtriever.Index.open`."""

    def __init__(
        self,
        table: Table,
        precision: str = "int8",
        version: int | None = None,
        device: str | None = None,
        exact_up_to: int = EXACT_UP_TO,
    ) -> None:
        self.version = version
        self._table, self._exact_up_to = table, exact_up_to
        self._segments = Segments(table.uri, table.model.fingerprint, table.model.layout, precision, device)
        self._lock = Lock()
        self._view: View | None = None
        if version is not None:
            self._view = self._open(version)

    def get(self) -> View:
        """Returns the view, after opening the latest version if a writer has made a new one."""
        with self._lock:
            if self._view is None or (self.version is None and self._view.snapshot.version != self._table.version):
                self._view = self._open(None)
            return self._view

    def info(self) -> dict[str, Any]:
        """Returns the segments on disk and the bytes of memory that searches use now; opens nothing."""
        view = self._view
        memory = {"memory_bytes": view.nbytes if view else 0}
        past = {"documents": len(view.snapshot), "version": self.version} if view and self.version is not None else {}
        return {**past, **self._segments.info(), **memory}

    def _open(self, version: int | None) -> View:
        snapshot = self._table.snapshot(version)
        with self._table.reading(snapshot.version):
            return View.of(snapshot, self._segments, self._view, compact=version is None, exact_up_to=self._exact_up_to)
