"""The exact scan: every document's folded score, the best k."""

from __future__ import annotations

import numpy as np

from rabtriever.fold import folded_scores

CHUNK_BYTES = 2**25  # the hidden units of one block of documents; they should stay near the cores


def scan(queries: np.ndarray, latents: np.ndarray, positive: int | None, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The best documents of each query.

    Args:
        queries: float32 (n, m + 1).
        latents: float32 (N, m + 1).
        positive: Leading units that count with a plus; None if the score is an inner product.
        k: How many documents to return, at most.

    Returns:
        For each query, positions int64 and log-odds float32, best first; ties in the order of ``latents``.
    """
    best: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
    rows = max(1, CHUNK_BYTES // (4 * latents.shape[1]))
    for start in range(0, len(latents), rows):
        scores = folded_scores(queries, latents[start : start + rows], positive)
        for query, row in enumerate(scores):
            positions = np.concatenate([best[query][0], np.arange(start, start + len(row))])
            best[query] = _top(positions, np.concatenate([best[query][1], row]), k)
    return best


def _top(positions: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    if len(scores) > k:
        # All that reach the k-th best score stay in the race, so that ties are not decided by the partition.
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = np.flatnonzero(scores >= least)
        positions, scores = positions[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")[:k]
    return positions[order], scores[order]
