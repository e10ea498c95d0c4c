"""Documents in clusters, so that a search may read the likeliest ones alone.

A cluster's centre is scored as if it were a document, by the folded predictor itself, without a surrogate. Two levels
of k-means (clusters of clusters) make a document's assignment cost sqrt(C) distances, not C.
"""

from __future__ import annotations

import numpy as np

LLOYD_ROUNDS = 6
SAMPLES_PER_CENTRE = 40  # documents that a centre is learnt from
DOCUMENTS_PER_CHUNK = 16_384  # compared with the centres at a time


def cluster(latents: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Returns each document's cluster, int64 (n,), numbered without gaps.

    Args:
        latents: float32 (n, width), without gain and bias.
        count: About how many clusters are wanted; empty ones are left out.
        seed: Of the choice of the first centres.
    """
    rng = np.random.default_rng(seed)
    coarse = max(1, round(count**0.5))
    top = _nearest(latents, _centres(latents, coarse, rng))
    result = np.empty(len(latents), np.int64)
    order = np.argsort(top, kind="stable")
    ends = np.searchsorted(top[order], np.arange(coarse + 1))
    n_clusters = 0
    for first, last in zip(ends, ends[1:], strict=False):
        rows = np.sort(order[first:last])
        if len(rows):
            members = latents[rows]
            share = max(1, round(count * len(rows) / len(latents)))
            names, inverse = np.unique(_nearest(members, _centres(members, share, rng)), return_inverse=True)
            result[rows] = n_clusters + inverse
            n_clusters += len(names)
    return result


def _centres(latents: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Computes centres (count, width) by Lloyd's rounds over a sample."""
    count = min(count, len(latents))
    size = min(len(latents), SAMPLES_PER_CENTRE * count)
    sample = latents[np.sort(rng.choice(len(latents), size, replace=False))]
    centres = sample[rng.choice(size, count, replace=False)]
    for _ in range(LLOYD_ROUNDS if count > 1 else 0):
        nearest = _nearest(sample, centres)
        order = np.argsort(nearest, kind="stable")
        nonempty, first = np.unique(nearest[order], return_index=True)
        centres[nonempty] = np.add.reduceat(sample[order], first) / np.diff([*first, size])[:, None]
    return centres


def _nearest(latents: np.ndarray, centres: np.ndarray) -> np.ndarray:
    half = np.square(centres).sum(1) / 2
    chunks = [latents[start : start + DOCUMENTS_PER_CHUNK] for start in range(0, len(latents), DOCUMENTS_PER_CHUNK)]
    return np.concatenate([(chunk @ centres.T - half).argmax(1) for chunk in chunks] or [np.empty(0, np.int64)])
