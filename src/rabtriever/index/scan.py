"""The exact scan: the kernel proposes, float32 decides, and a bound says whether enough was proposed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from rabtriever.index.hits import Ranking
from rabtriever.index.mapped import advise
from rabtriever.index.quantization import QuantizedLatents
from rabtriever.scoring.fold import score_latents
from rabtriever.scoring.layout import ScoreLayout
from rabtriever.threads import available_cores

if TYPE_CHECKING:
    from rabtriever.index.torch_scan import TorchLatents

MIN_BLOCKS_PER_THREAD = 64  # times queries


def candidates(
    codes: QuantizedLatents | TorchLatents,
    queries: np.ndarray,
    live: np.ndarray,
    k: int,
    blocks: np.ndarray | None = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the best documents by their codes; arguments as of :func:`scan`.

    Returns:
        Positions int64 (n, k), -1 where there are fewer, approximate log-odds float32 (n, k), in no order, and float32
        (n,), the most that those can be wrong by.
    """
    if not isinstance(codes, QuantizedLatents):
        return codes.candidates(queries, live, k, blocks)
    quantized, n = codes.quantize(queries), len(queries)
    blocks = np.arange(len(codes.blocks)) if blocks is None else blocks
    threads = max(1, min(threads or available_cores(), len(blocks) * n // MIN_BLOCKS_PER_THREAD))
    heap_scores = np.full((threads, n, k), -np.inf, np.float32)
    heap_positions = np.full((threads, n, k), -1, np.int64)
    from rabtriever.kernels.scan import scan_top_k  # numba takes a third of a second to import

    def work(part: int) -> None:
        own = blocks[len(blocks) * part // threads : len(blocks) * (part + 1) // threads]
        scan_top_k(
            codes.blocks, quantized[:4], codes.gain, codes.bias, live, own, heap_scores[part], heap_positions[part]
        )

    if threads == 1:
        work(0)
        scores, positions = heap_scores[0], heap_positions[0]
    else:
        list(_pool().map(work, range(threads)))
        scores, positions = (heap.swapaxes(0, 1).reshape(n, -1) for heap in (heap_scores, heap_positions))
        order = np.lexsort((positions, -scores), axis=1)[:, :k]
        scores, positions = np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)
    return positions, scores + quantized.constant[:, None], quantized.error


def scan(
    queries: np.ndarray,
    codes: QuantizedLatents | TorchLatents,
    latents: np.ndarray,
    live: np.ndarray,
    k: int,
    ordinals: np.ndarray | None = None,
    blocks: np.ndarray | None = None,
    threads: int | None = None,
) -> list[Ranking]:
    """Finds the best documents by float32 log-odds, whatever the codes' precision.

    The codes propose more than k documents, float32 latents rank those. A document that was not proposed has at most
    the worst proposed one's score, and the codes' error on top: if that does not reach the k-th, none was missed. If
    it does, more are proposed.

    Args:
        queries: float32 (n, dim), finite.
        codes: N documents, as the kernel reads them.
        latents: float32 (N, dim), the same; may be mapped from a file: only what is proposed is read.
        live: uint8 (n_blocks * 64,), 0 for documents that must not be found.
        k: Documents to return, at most.
        ordinals: (n_blocks * 64,), the documents' names, by which ties are broken; their positions if None.
        blocks: Which blocks to read, ascending; they must hold all live documents. All if None.
        threads: How many share the work; as many as there are cores if None.
    """
    n_live = int(live.sum(dtype=np.int64))
    k = min(k, n_live)
    found = [Ranking(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
    pending, depth = np.arange(len(queries) if k else 0), min(n_live, 4 * k + 128)
    while len(pending):
        positions, scores, error = candidates(codes, queries[pending], live, depth, blocks, threads)
        best_unseen = scores.min(axis=1) + error if depth < n_live else np.full(len(pending), -np.inf)
        for row, query in enumerate(pending):
            found[query] = rescore(queries[query], latents, codes.layout, positions[row], k, ordinals)
        kth_best = np.array([found[query].log_odds[-1] for query in pending])
        pending, depth = pending[best_unseen >= kth_best], min(n_live, 4 * depth)
        if depth > 16 * k + 512:
            advise(latents, "MADV_DONTNEED")  # many were read
    return found


def rescore(
    query: np.ndarray,
    latents: np.ndarray,
    layout: ScoreLayout,
    positions: np.ndarray,
    k: int,
    ordinals: np.ndarray | None,
) -> Ranking:
    """Returns the k best of some documents by float32 log-odds; positions of -1 are skipped."""
    positions = positions[positions >= 0]
    names = positions if ordinals is None else ordinals[positions].astype(np.int64)
    scores = score_latents(query[None], latents[positions], layout)[0]
    order = np.lexsort((names, -scores))[:k]
    return Ranking(names[order], scores[order])


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(available_cores(), thread_name_prefix="rabtriever-scan")
