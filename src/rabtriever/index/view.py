"""A version's documents, ready to be searched: segments, and where each of their slots stands in the table."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from rabtriever.index.hits import Ranking
from rabtriever.index.mapped import advise_dontneed
from rabtriever.index.quantization import QuantizedLatents
from rabtriever.index.scan import candidates, rescore, scan
from rabtriever.index.segments import Segment, Segments
from rabtriever.index.snapshot import Snapshot
from rabtriever.kernels import BLOCK
from rabtriever.scoring.layout import ScoreLayout

MAX_SEGMENTS = 16  # segments, before all but the first are joined
MAX_STALE_SHARE = 0.25  # share of rows that are not in the first, or of its rows that are gone, before all are joined
ANN_DOCUMENTS = 20_000  # documents that an approximate search reads
MIN_ROWS_TO_MERGE = 4096  # rows that may lie in small segments
MAX_RESIDENT_BYTES = 2**26  # bytes of float32 latents that may stay in memory after they were read
EXACT_UP_TO = 4_000_000  # documents; int8 scans of 128 columns then take about 20 ms a query on one core


@dataclass(frozen=True)
class MountedSegment:
    """A segment in a version.

    Attributes:
        segment: Its arrays.
        codes: The segment's, or its latents on a device.
        ordinals: int32 (n_blocks * 64,), each slot's place in the snapshot; -1 if it is not in it.
        live: uint8 (n_blocks * 64,), 1 where it is.
        blocks: int64, the blocks with such slots.
        centres: The clusters' centres for the kernel; None if there is but one cluster.
        counts: int64 (n_clusters,), how many of their documents are live.
        nonempty_clusters: uint8 (n_clusters, to a multiple of 64), whether there are any.
    """

    segment: Segment
    codes: Any
    ordinals: np.ndarray
    live: np.ndarray
    blocks: np.ndarray
    centres: QuantizedLatents | None
    counts: np.ndarray
    nonempty_clusters: np.ndarray

    @classmethod
    def of(cls, segment: Segment, taken: np.ndarray, device: str | None = None) -> MountedSegment:
        """The slots whose ordinals (n,) are not negative."""
        ordinals = np.full(len(segment.codes.bias), -1, np.int32)
        ordinals[: len(taken)] = taken
        many = len(segment.centres) > 1
        centres = QuantizedLatents.encode(segment.centres, segment.codes.layout, "int8") if many else None
        codes = _on_device(segment, device) if device else segment.codes
        none = np.empty(0)
        part = cls(segment, codes, ordinals, none, none, centres, none, none)
        return part.masked((ordinals >= 0).astype(np.uint8))

    def masked(self, live: np.ndarray) -> MountedSegment:
        """The same with other slots live."""
        blocks = np.flatnonzero(live.view(np.uint64).reshape(-1, BLOCK // 8).any(axis=1))
        counts = np.add.reduceat(live, self.segment.starts[:-1], dtype=np.int64)
        nonempty_clusters = np.pad((counts > 0).astype(np.uint8), (0, -len(counts) % BLOCK))
        return replace(self, live=live, blocks=blocks, counts=counts, nonempty_clusters=nonempty_clusters)


class View:
    """One version of an index in memory.

    Args:
        snapshot: The version.
        parts: Segments that hold all of its rows, each row once.
        exact_up_to: Documents up to which ``auto`` searches exactly.
    """

    def __init__(self, snapshot: Snapshot, parts: Sequence[MountedSegment], exact_up_to: int = EXACT_UP_TO) -> None:
        self.snapshot, self.parts, self.exact_up_to = snapshot, list(parts), exact_up_to
        self.touched = 0  # bytes of float32 latents that were read, whole pages, since they were released

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        segments: Segments,
        before: View | None = None,
        tidy: bool = True,
        exact_up_to: int = EXACT_UP_TO,
    ) -> View:
        """Open a version, from segments that are there as far as possible.

        Args:
            snapshot: The version.
            segments: Where segments are kept; what is missing is read from the table and kept there.
            before: The view of another version, whose segments need not be opened again.
            tidy: Whether many small segments may be joined, others removed; not for a version of the past.

        Raises:
            InputError: a segment cannot be written.
        """
        keys = snapshot.keys
        parts, known = _match_segments(keys, segments, before)
        if tidy:
            parts = _compact(parts, len(keys))
        missing = np.ones(len(keys), bool)
        for part in parts:
            missing[part.ordinals[part.ordinals >= 0]] = False
        absent = np.flatnonzero(missing)
        if len(absent):
            latents = segments.temporary_array((len(absent), snapshot.layout.width + 1))
            for ordinals, piece in snapshot.latents(absent):
                latents[np.searchsorted(absent, ordinals)] = piece
            made = segments.make(keys[absent], latents)
            parts = [*parts, MountedSegment.of(made, absent[made.order], segments.device)]
        for segment in known if tidy else []:
            if all(segment is not part.segment for part in parts):
                segments.drop(segment)
        return cls(snapshot, parts, exact_up_to)

    def search(self, queries: np.ndarray, k: int, mode: str, allowed: np.ndarray | None = None) -> list[Ranking]:
        """The best documents.

        Args:
            queries: float32 (n, m + 1).
            k: How many, at most.
            mode: ``exact``: by float32 log-odds of all documents. ``ann``: of those in the likeliest clusters.
                ``auto``: exact up to ``exact_up_to`` documents.
            allowed: Ordinals that may be found; all if None.

        Returns:
            For each query ordinals int64 and log-odds float32, best first; ties in the order of insertion.
        """
        mask = None
        if allowed is not None:
            mask = np.zeros(len(self.snapshot.keys) + 1, np.uint8)  # the last one is ordinal -1's
            mask[allowed] = 1
        approximate = mode == "ann" or (mode == "auto" and len(self.snapshot.keys) > self.exact_up_to)
        found = []
        for part in self.parts:
            seen = part if mask is None else part.masked(mask[part.ordinals])
            if approximate and part.centres is not None:
                found.append([self._ann_search(seen, query[None], k) for query in queries])
            else:
                found.append(scan(queries, part.codes, part.segment.latents, seen.live, k, part.ordinals, seen.blocks))
        self.touched += len(queries) * (4 * k + 128) * mmap.PAGESIZE
        for part in self.parts if self.touched > MAX_RESIDENT_BYTES else []:
            advise_dontneed(part.segment.latents)
            self.touched = 0
        return [_merge_top_k([of_part[query] for of_part in found], k) for query in range(len(queries))]

    @property
    def layout(self) -> ScoreLayout:
        """What the latents' columns mean."""
        return self.snapshot.layout

    def info(self) -> dict[str, Any]:
        """Returns the bytes in memory and how documents are stored for a search."""
        return {
            "memory_bytes": self.memory(),
            "segments": len(self.parts),
            "clusters": sum(len(part.segment.centres) for part in self.parts),
            "text_index": self.snapshot.has_text_index(),
        }

    def memory(self) -> int:
        """Bytes that a search reads and that are kept for it: codes, and where their slots stand."""
        arrays = [self.snapshot.rows, self.snapshot.keys]
        for part in self.parts:
            arrays += [part.segment.codes.blocks, part.segment.codes.bias, part.ordinals, part.live]
            arrays += [part.centres.blocks] if part.centres else []
        return sum(array.nbytes for array in arrays)

    def _ann_search(self, part: MountedSegment, query: np.ndarray, k: int) -> Ranking:
        """The best of one query in the clusters whose centres score best, as many as hold a share of the documents."""
        assert part.centres is not None
        codes, starts, counts = part.codes, part.segment.starts, part.counts
        total, nonempty_clusters = int(counts.sum()), int(part.nonempty_clusters.sum(dtype=np.int64))
        enough = min(total, max(ANN_DOCUMENTS, 4 * k))
        wanted = min(nonempty_clusters, 16 + 3 * enough * nonempty_clusters // max(1, 2 * total))
        clusters, scores = (row[0] for row in candidates(part.centres, query, part.nonempty_clusters, wanted)[:2])
        order = clusters[np.argsort(-scores, kind="stable")]
        order = order[: int(np.searchsorted(np.cumsum(counts[order]), enough)) + 1]
        opened = np.zeros(len(part.live) // BLOCK + 1, np.int64)
        np.add.at(opened, starts[order] // BLOCK, 1)
        np.add.at(opened, (starts[order + 1] - 1) // BLOCK + 1, -1)
        blocks = np.flatnonzero(np.cumsum(opened[:-1]))
        positions = candidates(codes, query, part.live, min(4 * k + 128, total), blocks)[0]
        return rescore(query[0], part.segment.latents, codes.layout, positions[0], k, part.ordinals)


def _match_segments(
    keys: np.ndarray, segments: Segments, before: View | None
) -> tuple[list[MountedSegment], list[Segment]]:
    """What segments already hold of a version, the largest first, and all segments that were looked at."""
    old = before.snapshot.keys if before else np.empty(0, np.int64)
    known = [part.segment for part in before.parts] if before else segments.load()
    if before and np.array_equal(keys[: len(old)], old):  # rows were added, or nothing happened
        return before.parts, known
    parts, missing = [], np.ones(len(keys), bool)
    for segment in known:
        ordinals = _ordinals(segment, keys, missing)
        if (ordinals >= 0).any():
            parts.append(MountedSegment.of(segment, ordinals, segments.device))
    return parts, known


def _compact(parts: list[MountedSegment], total: int) -> list[MountedSegment]:
    """Those that are worth keeping; what the rest holds is to be joined."""
    if parts:
        there, made = int(parts[0].counts.sum()), len(parts[0].segment.keys)
        if max(total, made) - there > max(MAX_STALE_SHARE * total, MIN_ROWS_TO_MERGE):
            return []
    return parts if len(parts) <= MAX_SEGMENTS else parts[:1]


def _ordinals(segment: Segment, keys: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Where a segment's slots stand in the table, else -1; what was ``missing`` is so no longer, nor counts twice."""
    mine, first = np.asarray(segment.keys), len(segment.order)
    if first <= len(keys) and missing[:first].all() and np.array_equal(keys[segment.order], mine):
        missing[:first] = False  # as they were, perhaps with others behind them
        return np.asarray(segment.order)
    found: np.ndarray = compute.index_in(pa.array(mine), value_set=pa.array(keys)).fill_null(-1).to_numpy().copy()
    there = np.flatnonzero(found >= 0)
    found[there[~missing[found[there]]]] = -1
    missing[found[found >= 0]] = False
    return found


def _merge_top_k(found: Sequence[Ranking], k: int) -> Ranking:
    ordinals, scores = (np.concatenate([part[i] for part in found] or [np.empty(0, np.int64)]) for i in (0, 1))
    order = np.lexsort((ordinals, -scores))[:k]
    return Ranking(ordinals[order].astype(np.int64), scores[order].astype(np.float32))


def _on_device(segment: Segment, device: str) -> Any:  # noqa: ANN401
    from rabtriever.index.torch_scan import TorchLatents  # torch is needed only here

    return TorchLatents(segment.latents, segment.codes.layout, device)
