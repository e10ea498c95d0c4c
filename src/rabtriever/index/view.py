"""A version in memory: its segments, and the ordinal of each of their positions (see :mod:`rabtriever.index.snapshot`).

An approximate search reads the clusters whose centres score best, as many as hold ``ANN_DOCUMENTS`` documents.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rabtriever.index.hits import Ranking
from rabtriever.index.mapped import advise
from rabtriever.index.quantization import QuantizedLatents
from rabtriever.index.scan import candidates, rescore, scan
from rabtriever.index.segments import Segment
from rabtriever.index.snapshot import Snapshot
from rabtriever.kernels import BLOCK, why_no_llvm
from rabtriever.scoring.layout import ScoreLayout

if TYPE_CHECKING:
    from rabtriever.index.torch_scan import TorchLatents

EXACT_UP_TO = 4_000_000  # documents; an int8 scan of 128 columns takes about 20 ms a query on one core
ANN_DOCUMENTS = 20_000  # documents that an approximate search reads
MAX_RESIDENT_BYTES = 2**26  # bytes of float32 latents that stay in memory after they were read


@dataclass(frozen=True)
class MountedSegment:
    """A segment in a version.

    Attributes:
        segment: Its arrays.
        codes: Its codes, or its latents on torch's device.
        centres: The clusters' centres, read in the same way; None if it is one cluster.
        ordinals: int32 (n_blocks * 64,), the ordinal of each position; -1 if the version does not have its row.
        live: uint8 (n_blocks * 64,), 1 if the row at a position may be found.
    """

    segment: Segment
    codes: QuantizedLatents | TorchLatents
    centres: QuantizedLatents | TorchLatents | None
    ordinals: np.ndarray
    live: np.ndarray

    @classmethod
    def of(cls, segment: Segment, ordinals: np.ndarray, device: str | None = None) -> MountedSegment:
        """Mounts a segment whose rows have these ordinals, int (n,).

        torch scans it on a device if one is given, and on the CPU where numba cannot compile the kernel.
        """
        layout, codes, clustered = segment.codes.layout, segment.codes, len(segment.centres) > 1
        padded = np.full(len(codes.bias), -1, np.int32)
        padded[: len(ordinals)] = ordinals
        live = (padded >= 0).astype(np.uint8)
        if device is None and why_no_llvm() is None:
            centres = QuantizedLatents.encode(segment.centres, layout, "int8") if clustered else None
            return cls(segment, codes, centres, padded, live)
        from rabtriever.index.torch_scan import TorchLatents  # torch is needed only here

        device = device or "cpu"
        on_device = TorchLatents(segment.centres, layout, device) if clustered else None
        return cls(segment, TorchLatents(segment.latents, layout, device), on_device, padded, live)

    @cached_property
    def blocks(self) -> np.ndarray:
        """int64, the blocks with live positions."""
        return np.flatnonzero(self.live.view(np.uint64).reshape(-1, BLOCK // 8).any(axis=1))

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 (n_clusters,), live positions of each cluster."""
        return np.add.reduceat(self.live, self.segment.starts[:-1], dtype=np.int64)

    @cached_property
    def nonempty_clusters(self) -> np.ndarray:
        """uint8 (n_clusters, padded to a multiple of 64), 1 if a cluster has a live position."""
        return np.pad((self.counts > 0).astype(np.uint8), (0, -len(self.counts) % BLOCK))


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

    def search(self, queries: np.ndarray, k: int, mode: str, allowed: np.ndarray | None = None) -> list[Ranking]:
        """Ranks documents by the retriever's log-odds.

        Args:
            queries: float32 (n, dim).
            k: Documents to return, at most.
            mode: ``exact``, ``ann``, ``auto`` or ``encoder``, as in :class:`rabtriever.index.SearchOptions`.
            allowed: Ordinals that may be found; all if None.

        Returns:
            A ranking for each query; ties in the order of insertion.
        """
        parts = self.parts
        if allowed is not None:
            mask = np.zeros(len(self.snapshot) + 1, np.uint8)  # the last entry is ordinal -1's
            mask[allowed] = 1
            parts = [replace(part, live=mask[part.ordinals]) for part in parts]
        if mode == "encoder":
            parts = [replace(part, codes=part.codes.inner) for part in parts]
        approximate = mode == "ann" or (mode == "auto" and len(self.snapshot) > self.exact_up_to)
        found: list[list[Ranking]] = []
        for part in parts:
            if approximate and part.centres is not None:
                found.append([_ann_search(part, part.centres, query[None], k) for query in queries])
            else:
                found.append(scan(queries, part.codes, part.segment.latents, part.live, k, part.ordinals, part.blocks))
        self._limit_memory(len(queries) * (4 * k + 128) * mmap.PAGESIZE)
        return [_merge_top_k([of_part[query] for of_part in found], k) for query in range(len(queries))]

    def warm(self) -> None:
        """Compiles the kernel for a pair of queries, and for those that leave the ReLU columns out."""
        for mode in ("exact", "encoder") if self.layout.n_inner else ("exact",):
            self.search(np.zeros((2, self.layout.dim), np.float32), 1, mode)

    @property
    def layout(self) -> ScoreLayout:
        """What the latents' columns mean."""
        return self.snapshot.layout

    @property
    def nbytes(self) -> int:
        """Bytes of memory that searches need: codes, keys, ordinals."""
        arrays: list[Any] = [self.snapshot]
        for part in self.parts:
            arrays += [part.codes, part.ordinals, part.live, *([part.centres] if part.centres else [])]
        return sum(array.nbytes for array in arrays)

    def _limit_memory(self, read_bytes: int) -> None:
        self._resident_bytes += read_bytes
        if self._resident_bytes > MAX_RESIDENT_BYTES:
            for part in self.parts:
                advise(part.segment.latents, "MADV_DONTNEED")
            self._resident_bytes = 0


def _ann_search(part: MountedSegment, centres: QuantizedLatents | TorchLatents, query: np.ndarray, k: int) -> Ranking:
    """Ranks the documents of the clusters whose centres score best for one query, float32 (1, dim)."""
    starts, counts, nonempty = part.segment.starts, part.counts, part.nonempty_clusters
    n_live, n_nonempty = int(counts.sum()), int(nonempty.sum(dtype=np.int64))
    n_read = min(n_live, max(ANN_DOCUMENTS, 4 * k))
    # Half as many clusters again as hold that many documents on average, since their sizes differ.
    n_clusters = min(n_nonempty, 16 + 3 * n_read * n_nonempty // max(1, 2 * n_live))
    clusters, scores = (row[0] for row in candidates(centres, query, nonempty, n_clusters)[:2])
    best = clusters[np.argsort(-scores, kind="stable")]
    best = best[: int(np.searchsorted(np.cumsum(counts[best]), n_read)) + 1]
    opened = np.zeros(len(part.live) // BLOCK + 1, np.int64)
    np.add.at(opened, starts[best] // BLOCK, 1)
    np.add.at(opened, (starts[best + 1] - 1) // BLOCK + 1, -1)
    blocks = np.flatnonzero(np.cumsum(opened[:-1]))
    positions = candidates(part.codes, query, part.live, min(4 * k + 128, n_live), blocks)[0]
    return rescore(query[0], part.segment.latents, part.codes.layout, positions[0], k, part.ordinals)


def _merge_top_k(parts: Sequence[Ranking], k: int) -> Ranking:
    if not parts:
        return Ranking(np.empty(0, np.int64), np.empty(0, np.float32))
    ordinals, log_odds = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((ordinals, -log_odds))[:k]
    return Ranking(ordinals[order], log_odds[order])
