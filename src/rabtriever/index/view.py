"""A version in memory: its segments, and the ordinal of each of their positions (see :mod:`rabtriever.index.snapshot`).

An approximate search reads the clusters whose centres score best, as many as hold ``ANN_DOCUMENTS`` documents.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rabtriever.index.hits import Ranking
from rabtriever.index.mapped import advise_dontneed
from rabtriever.index.quantization import QuantizedLatents
from rabtriever.index.scan import candidates, rescore, scan
from rabtriever.index.segments import Segment, Segments
from rabtriever.index.snapshot import Snapshot
from rabtriever.kernels import BLOCK
from rabtriever.scoring.layout import ScoreLayout

if TYPE_CHECKING:
    from rabtriever.index.torch_scan import TorchLatents

EXACT_UP_TO = 4_000_000  # documents; an int8 scan of 128 columns takes about 20 ms a query on one core
ANN_DOCUMENTS = 20_000  # documents that an approximate search reads
MAX_SEGMENTS = 16  # more are merged into the first and one other
MAX_STALE_SHARE = 0.25  # largest share of rows outside the first segment, or of its rows deleted, before all are merged
MIN_ROWS_TO_MERGE = 4096  # as many rows may be outside it, or deleted, whatever their share
MAX_RESIDENT_BYTES = 2**26  # bytes of float32 latents that stay in memory after they were read


@dataclass(frozen=True)
class MountedSegment:
    """A segment in a version.

    Attributes:
        segment: Its arrays.
        codes: Its codes, or its latents on a device.
        ordinals: int32 (n_blocks * 64,), the ordinal of each position; -1 if the version does not have its row.
        live: uint8 (n_blocks * 64,), 1 if the row at a position may be found.
        blocks: int64, the blocks with live positions.
        centres: The clusters' centres as the kernel reads them; None if it is one cluster.
        counts: int64 (n_clusters,), live positions of each cluster.
        nonempty_clusters: uint8 (n_clusters, padded to a multiple of 64), 1 if a cluster has any.
    """

    segment: Segment
    codes: QuantizedLatents | TorchLatents
    ordinals: np.ndarray
    live: np.ndarray
    blocks: np.ndarray
    centres: QuantizedLatents | None
    counts: np.ndarray
    nonempty_clusters: np.ndarray

    @classmethod
    def of(cls, segment: Segment, ordinals: np.ndarray, device: str | None = None) -> MountedSegment:
        """Mounts a segment.

        Args:
            segment: The segment.
            ordinals: int (n,), the ordinal of each of its rows; -1 if the version does not have it.
            device: Device on which torch scans it; None: the kernel scans it.
        """
        padded = np.full(len(segment.codes.bias), -1, np.int32)
        padded[: len(ordinals)] = ordinals
        clustered = len(segment.centres) > 1
        centres = QuantizedLatents.encode(segment.centres, segment.codes.layout, "int8") if clustered else None
        codes = _on_device(segment, device) if device else segment.codes
        none = np.empty(0)
        part = cls(segment, codes, padded, none, none, centres, none, none)
        return part.masked((padded >= 0).astype(np.uint8))

    def masked(self, live: np.ndarray) -> MountedSegment:
        """Returns the same segment with other positions live."""
        blocks = np.flatnonzero(live.view(np.uint64).reshape(-1, BLOCK // 8).any(axis=1))
        counts = np.add.reduceat(live, self.segment.starts[:-1], dtype=np.int64)
        nonempty_clusters = np.pad((counts > 0).astype(np.uint8), (0, -len(counts) % BLOCK))
        return replace(self, live=live, blocks=blocks, counts=counts, nonempty_clusters=nonempty_clusters)


class View:
    """One version of an index, ready to be searched.

    Args:
        snapshot: The version.
        parts: Segments that hold all of its rows, each row once.
        exact_up_to: Documents up to which ``auto`` searches exactly.
    """

    def __init__(self, snapshot: Snapshot, parts: Sequence[MountedSegment], exact_up_to: int = EXACT_UP_TO) -> None:
        self.snapshot, self.parts, self.exact_up_to = snapshot, list(parts), exact_up_to
        self._resident_bytes = 0  # of float32 latents, whole pages, read since they were last given back

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        segments: Segments,
        previous: View | None = None,
        *,
        compact: bool = True,
        exact_up_to: int = EXACT_UP_TO,
    ) -> View:
        """Opens a version with the segments that exist; makes one of the rows that none of them holds.

        Args:
            snapshot: The version.
            segments: The folder of segments.
            previous: The view of another version, whose segments need not be opened again.
            compact: Whether to merge small segments and remove unused ones; False for a past version.
            exact_up_to: Documents up to which ``auto`` searches exactly.

        Raises:
            StorageError: a segment cannot be written.
        """
        parts, existing = _match_segments(snapshot.keys, segments, previous)
        if compact:
            parts = _segments_to_keep(parts, len(snapshot))
        missing = np.ones(len(snapshot), bool)
        for part in parts:
            missing[part.ordinals[part.ordinals >= 0]] = False
        absent = np.flatnonzero(missing)
        if len(absent):
            latents = segments.temporary_array((len(absent), snapshot.layout.width + 1))
            for ordinals, of_batch in snapshot.latents(absent):
                latents[np.searchsorted(absent, ordinals)] = of_batch
            made = segments.make(snapshot.keys[absent], latents)
            parts = [*parts, MountedSegment.of(made, absent[made.order], segments.device)]
        for segment in existing if compact else []:
            if all(segment is not part.segment for part in parts):
                segments.drop(segment)
        return cls(snapshot, parts, exact_up_to)

    def search(self, queries: np.ndarray, k: int, mode: str, allowed: np.ndarray | None = None) -> list[Ranking]:
        """Ranks documents by the retriever's log-odds.

        Args:
            queries: float32 (n, width + 1).
            k: Documents to return, at most.
            mode: ``exact``: of all documents. ``ann``: of those in the clusters that score best. ``auto``: exact up to
                ``exact_up_to`` documents, approximate beyond.
            allowed: Ordinals that may be found; all if None.

        Returns:
            A ranking for each query; ties in the order of insertion.
        """
        mask = None
        if allowed is not None:
            mask = np.zeros(len(self.snapshot) + 1, np.uint8)  # the last entry is ordinal -1's
            mask[allowed] = 1
        approximate = mode == "ann" or (mode == "auto" and len(self.snapshot) > self.exact_up_to)
        found: list[list[Ranking]] = []
        for part in self.parts:
            part = part if mask is None else part.masked(mask[part.ordinals])
            if approximate and part.centres is not None:
                found.append([_ann_search(part, query[None], k) for query in queries])
            else:
                found.append(scan(queries, part.codes, part.segment.latents, part.live, k, part.ordinals, part.blocks))
        self._limit_memory(len(queries) * (4 * k + 128) * mmap.PAGESIZE)
        return [_merge_top_k([of_part[query] for of_part in found], k) for query in range(len(queries))]

    @property
    def layout(self) -> ScoreLayout:
        """What the latents' columns mean."""
        return self.snapshot.layout

    @property
    def nbytes(self) -> int:
        """Bytes of memory that searches need: codes, keys, ordinals."""
        arrays = [self.snapshot.row_ids, self.snapshot.keys]
        for part in self.parts:
            arrays += [part.segment.codes.blocks, part.segment.codes.bias, part.ordinals, part.live]
            arrays += [part.centres.blocks] if part.centres else []
        return sum(array.nbytes for array in arrays)

    def _limit_memory(self, read_bytes: int) -> None:
        self._resident_bytes += read_bytes
        if self._resident_bytes > MAX_RESIDENT_BYTES:
            for part in self.parts:
                advise_dontneed(part.segment.latents)
            self._resident_bytes = 0


def _ann_search(part: MountedSegment, query: np.ndarray, k: int) -> Ranking:
    """Ranks the documents of the clusters whose centres score best for one query, float32 (1, width + 1)."""
    assert part.centres is not None
    codes, starts, counts = part.codes, part.segment.starts, part.counts
    n_live, n_nonempty = int(counts.sum()), int(part.nonempty_clusters.sum(dtype=np.int64))
    n_read = min(n_live, max(ANN_DOCUMENTS, 4 * k))
    # Half as many clusters again as hold that many documents on average, since their sizes differ.
    n_clusters = min(n_nonempty, 16 + 3 * n_read * n_nonempty // max(1, 2 * n_live))
    clusters, scores = (row[0] for row in candidates(part.centres, query, part.nonempty_clusters, n_clusters)[:2])
    best = clusters[np.argsort(-scores, kind="stable")]
    best = best[: int(np.searchsorted(np.cumsum(counts[best]), n_read)) + 1]
    opened = np.zeros(len(part.live) // BLOCK + 1, np.int64)
    np.add.at(opened, starts[best] // BLOCK, 1)
    np.add.at(opened, (starts[best + 1] - 1) // BLOCK + 1, -1)
    blocks = np.flatnonzero(np.cumsum(opened[:-1]))
    positions = candidates(codes, query, part.live, min(4 * k + 128, n_live), blocks)[0]
    return rescore(query[0], part.segment.latents, codes.layout, positions[0], k, part.ordinals)


def _match_segments(
    keys: np.ndarray, segments: Segments, previous: View | None
) -> tuple[list[MountedSegment], list[Segment]]:
    """Returns the segments that hold rows of a version, mounted, the largest first, and all that were considered."""
    old = previous.snapshot.keys if previous else np.empty(0, np.int64)
    existing = [part.segment for part in previous.parts] if previous else segments.load()
    if previous and np.array_equal(keys[: len(old)], old):  # rows were added, or nothing happened
        return previous.parts, existing
    parts, missing = [], np.ones(len(keys), bool)
    for segment in existing:
        ordinals = _match_keys(segment, keys, missing)
        if (ordinals >= 0).any():
            parts.append(MountedSegment.of(segment, ordinals, segments.device))
    return parts, existing


def _segments_to_keep(parts: list[MountedSegment], n_documents: int) -> list[MountedSegment]:
    """Returns the segments to keep; the rows of the others go into a new one."""
    if parts:
        n_live, n_rows = int(parts[0].counts.sum()), len(parts[0].segment.keys)
        if max(n_documents, n_rows) - n_live > max(MAX_STALE_SHARE * n_documents, MIN_ROWS_TO_MERGE):
            return []
    return parts if len(parts) <= MAX_SEGMENTS else parts[:1]


def _match_keys(segment: Segment, keys: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Returns the ordinal int (n,) of each of a segment's rows, -1 if it has none or another segment has it.

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


def _merge_top_k(parts: Sequence[Ranking], k: int) -> Ranking:
    ordinals = np.concatenate([part.ordinals for part in parts] or [np.empty(0, np.int64)])
    log_odds = np.concatenate([part.log_odds for part in parts] or [np.empty(0, np.float32)])
    order = np.lexsort((ordinals, -log_odds))[:k]
    return Ranking(ordinals[order].astype(np.int64), log_odds[order].astype(np.float32))


def _on_device(segment: Segment, device: str) -> TorchLatents:
    from rabtriever.index.torch_scan import TorchLatents  # torch is needed only here

    return TorchLatents(segment.latents, segment.codes.layout, device)
