"""What a search returns, and how two rankings become one."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rabtriever.calibration import Calibration
from rabtriever.fold import folded_scores
from rabtriever.index.snapshot import Snapshot

RRF = 60  # of reciprocal-rank fusion: 1 / (RRF + rank), Cormack et al. 2009


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        id: The document's id.
        probability: That the document is right for the query: its log-odds, calibrated.
        log_odds: The ranking key; the retriever's, or the reranker's where it was asked.
        text: The document as the models read it.
        metadata: As it was added.
        reranked: Whether probability and log-odds are the reranker's.
    """

    id: str
    probability: float
    log_odds: float
    text: str
    metadata: dict[str, Any]
    reranked: bool = False


def hits_of(ranking: tuple[np.ndarray, np.ndarray], snapshot: Snapshot, calibration: Calibration) -> list[Hit]:
    """The documents of a ranking, ordinals and log-odds."""
    probabilities = calibration.probability(ranking[1]).tolist()
    return [
        Hit(document.id, probability, score, document.content, deepcopy(dict(document.metadata)))
        for document, probability, score in zip(
            snapshot.documents(ranking[0]), probabilities, ranking[1].tolist(), strict=True
        )
    ]


def reranked(hits: Sequence[Hit], log_odds: np.ndarray, calibration: Calibration) -> list[Hit]:
    """The first hits in the reranker's order, with its log-odds, float32 (n,), and probabilities; the others behind."""
    judged = [
        replace(hit, log_odds=score, probability=float(calibration.probability(score)), reranked=True)
        for hit, score in zip(hits, log_odds.tolist(), strict=False)
    ]
    return [*sorted(judged, key=lambda hit: -hit.log_odds), *hits[len(judged) :]]


def fused(
    ranking: tuple[np.ndarray, np.ndarray],
    lexical: np.ndarray,
    by_rank: bool,
    vector: np.ndarray,
    snapshot: Snapshot,
    positive: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """A ranking and BM25's as one.

    Args:
        ranking: Ordinals int64 and log-odds float32, best first.
        lexical: Ordinals int64, BM25's, best first.
        by_rank: Order by reciprocal-rank fusion of both; else by log-odds alone.
        vector: The query's latent, float32 (m + 1,), for the log-odds of what BM25 alone has found.
        snapshot: Where their latents are.
        positive: Leading units that count with a plus; None for an inner product.

    Returns:
        Ordinals and log-odds of both rankings' documents, best first.
    """
    scores = dict(zip(ranking[0].tolist(), ranking[1].tolist(), strict=True))
    new = np.array(sorted(set(lexical.tolist()) - scores.keys()), np.int64)
    for ordinals, latents in snapshot.latents(new):
        found = folded_scores(vector[None], latents, positive)[0]
        scores.update(zip(ordinals.tolist(), found.tolist(), strict=True))
    value = dict.fromkeys(scores, 0.0) if by_rank else scores
    for places in (ranking[0], lexical) if by_rank else ():
        for rank, ordinal in enumerate(places.tolist(), 1):
            value[ordinal] += 1 / (RRF + rank)
    best = sorted(scores, key=lambda ordinal: (-value[ordinal], ordinal))
    return np.array(best, np.int64), np.array([scores[ordinal] for ordinal in best], np.float32)
