"""The scan in NumPy, for machines where numba does not work."""

from __future__ import annotations

import numpy as np

from rabtriever.kernels import BLOCK

BLOCKS_PER_CHUNK = 64  # whose columns are in memory as float64 at a time


def scan_top_k(
    codes: np.ndarray,
    queries: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray],
    bias: np.ndarray,
    live: np.ndarray,
    blocks: np.ndarray,
    scores: np.ndarray,
    positions: np.ndarray,
) -> None:
    """Finds what :func:`rabtriever.kernels.scan.scan_top_k` finds; arguments as there."""
    inner, thresholds, weights, units = queries
    if inner is not None:
        inner = inner[:, 0] if inner.dtype != np.int8 else 128 * inner[:, 0].astype(np.int32) + inner[:, 1]
    for start in range(0, len(blocks), BLOCKS_PER_CHUNK):
        chunk = blocks[start : start + BLOCKS_PER_CHUNK]
        rows = (BLOCK * chunk[:, None] + np.arange(BLOCK)).ravel()
        rows, columns = rows[live[rows] > 0], _columns(codes[chunk])[live[rows] > 0]
        left, right = np.split(columns, [0 if inner is None else inner.shape[1]], axis=1)
        for query in range(len(scores)):
            found = bias[rows].astype(np.float64)
            if inner is not None:
                found += left @ inner[query].astype(np.float64) * units[query, 0]
            if thresholds is not None and weights is not None:
                found += np.maximum(right, thresholds[query]) @ weights.astype(np.float64) * units[query, 1]
            values = np.concatenate([scores[query], found.astype(np.float32)])
            names = np.concatenate([positions[query], rows])
            best = np.lexsort((names, -values))[: scores.shape[1]]
            scores[query], positions[query] = values[best], names[best]


def _columns(codes: np.ndarray) -> np.ndarray:
    """Returns the columns of some blocks, document by document: float64 (documents, columns)."""
    codes = codes.reshape(len(codes), -1, BLOCK, 4 if codes.dtype == np.uint8 else 1)
    rows = codes.transpose(0, 2, 1, 3).reshape(BLOCK * len(codes), -1)
    return (rows.view(np.float16) if rows.dtype == np.uint16 else rows).astype(np.float64)
