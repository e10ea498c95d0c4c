"""The view that searches use, of the latest version or the past one that was opened, and how a version is opened."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from rabtriever.index.segments import Segment, Segments
from rabtriever.index.snapshot import KeyRange, Snapshot
from rabtriever.index.table import Table
from rabtriever.index.view import EXACT_UP_TO, MountedSegment, View

MAX_SEGMENTS = 16  # more are merged into the first and one other
MAX_STALE_SHARE = 0.25  # largest share of rows outside the first segment, or of its rows deleted, before all are merged
MIN_ROWS_TO_MERGE = 4096  # as many rows may be outside it, or deleted, whatever their share


class CurrentView:
    """A view that follows its table; thread-safe.

    Arguments and errors as of :meth:`rabtriever.Index.open`; ``shard``: which rows it has; all if None.
    """

    def __init__(
        self,
        table: Table,
        precision: str = "int8",
        version: int | None = None,
        device: str | None = None,
        exact_up_to: int = EXACT_UP_TO,
        shard: KeyRange | None = None,
    ) -> None:
        self.version = version
        self._table, self._exact_up_to, self._shard = table, exact_up_to, shard
        part = shard.name if shard else ""
        self._segments = Segments(table.uri, table.model.fingerprint, table.model.layout, precision, device, part)
        self._lock = Lock()
        self._view = None if version is None else self._open(None)

    def get(self, version: int | None = None) -> View:
        """Returns the view, after opening the latest version if a writer has made a new one.

        Args:
            version: A newer view is opened only if the present one is older than this, and then of this very version.
        """
        with self._lock:
            if self._view is None or (
                self.version is None and self._view.snapshot.version < (version or self._table.version)
            ):
                self._view = self._open(self._view, version)
            return self._view

    def info(self) -> dict[str, Any]:
        """Returns the segments on disk and the bytes of memory that searches use now; opens nothing."""
        view = self._view
        past = {"documents": len(view.snapshot), "version": self.version} if view and self.version is not None else {}
        return {**past, **self._segments.info(), "memory_bytes": view.nbytes if view else 0}

    def _open(self, previous: View | None, version: int | None = None) -> View:
        snapshot = self._table.snapshot(self.version or version, self._shard)
        with self._table.reading(snapshot.version):
            parts = _mount(snapshot, self._segments, previous, compact=self.version is None)
        return View(snapshot, parts, self._exact_up_to)


def _mount(snapshot: Snapshot, segments: Segments, previous: View | None, compact: bool) -> list[MountedSegment]:
    """Mounts the segments that exist; makes one of the rows that none of them holds.

    Args:
        snapshot: The version.
        segments: The folder of segments.
        previous: The view of another version, whose segments need not be opened again.
        compact: Whether to merge small segments and remove unused ones; False for a past version.
    """
    existing = [part.segment for part in previous.parts] if previous else segments.load()
    if previous and np.array_equal(snapshot.keys[: len(previous.snapshot)], previous.snapshot.keys):  # rows were added
        parts = previous.parts
    else:
        parts = _match(existing, snapshot, segments, np.ones(len(snapshot), bool))
    parts = _segments_to_keep(parts, len(snapshot)) if compact else parts
    if _missing(parts, snapshot).any():
        with segments.making():
            others = segments.load({segment.folder for segment in existing})  # made by other processes meanwhile
            parts = [*parts, *_match(others, snapshot, segments, _missing(parts, snapshot))]
            parts += _make(snapshot, segments, np.flatnonzero(_missing(parts, snapshot)))
    for segment in existing if compact else []:
        if all(segment is not part.segment for part in parts):
            segments.drop(segment)
    return parts


def _missing(parts: Sequence[MountedSegment], snapshot: Snapshot) -> np.ndarray:
    """Returns bool (n,), the ordinals that no segment has."""
    missing = np.ones(len(snapshot), bool)
    for part in parts:
        missing[part.ordinals[part.ordinals >= 0]] = False
    return missing


def _match(
    found: Sequence[Segment], snapshot: Snapshot, segments: Segments, missing: np.ndarray
) -> list[MountedSegment]:
    """Mounts those segments that have rows which are ``missing``, bool (n,); it is changed."""
    matched = [(segment, _match_keys(segment, snapshot.keys, missing)) for segment in found]
    return [MountedSegment.of(*pair, segments.device) for pair in matched if (pair[1] >= 0).any()]


def _make(snapshot: Snapshot, segments: Segments, absent: np.ndarray) -> list[MountedSegment]:
    """Makes a segment of the rows of these ordinals, int64 ascending, if there are any, and mounts it."""
    if not len(absent):
        return []
    latents = segments.temporary_array((len(absent), snapshot.layout.dim))
    for ordinals, of_batch in snapshot.latents(absent):
        latents[np.searchsorted(absent, ordinals)] = of_batch
    made = segments.make(snapshot.keys[absent], latents)
    return [MountedSegment.of(made, absent[made.order], segments.device)]


def _match_keys(segment: Segment, keys: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Returns the ordinal int (n,) of each of a segment's rows, -1 if the version lacks it or another segment has it.

    Args:
        segment: The segment.
        keys: int64, a version's keys.
        missing: bool, the ordinals that no segment has so far. Changed.
    """
    segment_keys, n = np.asarray(segment.keys), len(segment.order)
    if n <= len(keys) and missing[:n].all() and np.array_equal(keys[segment.order], segment_keys):
        missing[:n] = False  # the version begins with the segment's rows
        return np.asarray(segment.order)
    import pyarrow as pa
    from pyarrow import compute

    found = compute.index_in(pa.array(segment_keys), value_set=pa.array(keys)).fill_null(-1)
    ordinals: np.ndarray = found.to_numpy().copy()
    matched = np.flatnonzero(ordinals >= 0)
    ordinals[matched[~missing[ordinals[matched]]]] = -1
    missing[ordinals[ordinals >= 0]] = False
    return ordinals


def _segments_to_keep(parts: list[MountedSegment], n_documents: int) -> list[MountedSegment]:
    """Returns the segments to keep; the rows of the others go into a new one."""
    if parts:
        n_live, n_rows = int(parts[0].counts.sum()), len(parts[0].segment.keys)
        if max(n_documents, n_rows) - n_live > max(MAX_STALE_SHARE * n_documents, MIN_ROWS_TO_MERGE):
            return []
    return parts if len(parts) <= MAX_SEGMENTS else parts[:1]
