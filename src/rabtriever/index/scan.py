"""The exact scan: the kernel proposes, float32 decides, and a bound tells whether enough was proposed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from rabtriever.fold import folded_scores
from rabtriever.index.codes import Codes
from rabtriever.index.device import OnDevice
from rabtriever.index.kernels import best
from rabtriever.index.mapped import release

Found = list[tuple[np.ndarray, np.ndarray]]
"""For each query positions int64 and log-odds float32, best first; ties in the order of positions."""


def propose(
    codes: Codes | OnDevice,
    queries: np.ndarray,
    live: np.ndarray,
    k: int,
    blocks: np.ndarray | None = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best documents by their codes.

    Args:
        codes: The documents.
        queries: float32 (n, m + 1).
        live: uint8 (n_blocks * 64,), 0 for those that must not be found.
        k: How many.
        blocks: Which blocks to read, ascending; all if None.
        threads: How many share the work; as many as there are cores if None.

    Returns:
        Positions int64 (n, k), -1 where there are fewer, approximate log-odds float32 (n, k), in no order, and float32
        (n,), the most that those can be wrong by.
    """
    if isinstance(codes, OnDevice):
        return codes.propose(queries, live, k, blocks)
    prepared, n = codes.prepare(queries), len(queries)
    blocks = np.arange(len(codes.blocks)) if blocks is None else blocks
    threads = max(1, min(threads or cores(), len(blocks) * n // 64))
    heaps = np.full((threads, n, k), -np.inf, np.float32)
    places = np.full((threads, n, k), -1, np.int64)

    def work(part: int) -> None:
        some = blocks[len(blocks) * part // threads : len(blocks) * (part + 1) // threads]
        best(codes.blocks, *prepared[:3], codes.bias, live, some, heaps[part], places[part])

    if threads == 1:
        work(0)
    else:
        list(_pool().map(work, range(threads)))
    scores: np.ndarray = np.moveaxis(heaps, 0, 1).reshape(n, -1)
    positions: np.ndarray = np.moveaxis(places, 0, 1).reshape(n, -1)
    if threads > 1:
        order = np.lexsort((positions, -scores), axis=1)[:, :k]
        scores, positions = np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)
    return positions, scores + prepared.constant[:, None], prepared.error


def scan(
    queries: np.ndarray,
    codes: Codes | OnDevice,
    latents: np.ndarray,
    live: np.ndarray,
    k: int,
    ordinals: np.ndarray | None = None,
    blocks: np.ndarray | None = None,
    threads: int | None = None,
) -> Found:
    """The best documents by float32 log-odds, whatever the codes' precision.

    The codes propose more than k documents, float32 latents rank those. A document that was not proposed has at most
    the worst proposed one's score, and the codes' error on top: if that does not reach the k-th, none was missed. If
    it does, more are proposed.

    Args:
        queries: float32 (n, m + 1).
        codes: The documents, as the kernel reads them.
        latents: float32 (N, m + 1), the same; may be mapped from a file: only what is proposed is read.
        live: uint8 (n_blocks * 64,), 0 for those that must not be found.
        k: How many documents to return, at most.
        ordinals: (n_blocks * 64,), what documents are called and ties are broken by; their positions if None.
        blocks: As in :func:`propose`; they must hold all that is live.
        threads: As in :func:`propose`.
    """
    there = int(live.sum(dtype=np.int64))
    k = min(k, there)
    found: Found = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
    left, depth = np.arange(len(queries) if k else 0), min(there, 4 * k + 128)
    while len(left):
        positions, scores, error = propose(codes, queries[left], live, depth, blocks, threads)
        missed = scores.min(axis=1) + error if depth < there else np.full(len(left), -np.inf)
        for row, query in enumerate(left):
            found[query] = rank(queries[query], latents, codes.positive, positions[row], k, ordinals)
        least = np.array([found[query][1][-1] for query in left])
        left, depth = left[missed >= least], min(there, 4 * depth)
        if depth > 16 * k + 512:
            release(latents)  # many were read
    return found


def rank(
    query: np.ndarray,
    latents: np.ndarray,
    positive: int | None,
    positions: np.ndarray,
    k: int,
    ordinals: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of some documents by float32 log-odds: ordinals int64 and scores; positions of -1 are skipped."""
    positions = positions[positions >= 0]
    names = positions if ordinals is None else ordinals[positions].astype(np.int64)
    scores = folded_scores(query[None], latents[positions], positive)[0]
    order = np.lexsort((names, -scores))[:k]
    return names[order], scores[order]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="rabtriever-scan")
