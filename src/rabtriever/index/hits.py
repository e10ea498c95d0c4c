"""What a search returns, and how two rankings become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rabtriever.fold import folded_scores
from rabtriever.index.snapshot import Snapshot
from rabtriever.retriever import Rabtriever

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
    """

    id: str
    probability: float
    log_odds: float
    text: str
    metadata: dict[str, Any]


def hits_of(
    query: str,
    ranking: tuple[np.ndarray, np.ndarray],
    snapshot: Snapshot,
    retriever: Rabtriever,
    k: int,
    rerank: int | None,
) -> list[Hit]:
    """The k first documents of a ranking, ordinals and log-odds; the reranker judges the first ``rerank``."""
    scored = list(zip(snapshot.documents(ranking[0]), ranking[1].tolist(), strict=True))
    judges = [retriever.calibration] * len(scored)
    if rerank is not None and scored:
        judged = [document for document, _ in scored[:rerank]]
        theirs = retriever.teacher.log_odds([query], [document.content for document in judged])[0]
        scored[:rerank] = sorted(zip(judged, theirs.tolist(), strict=True), key=lambda pair: -pair[1])
        judges[:rerank] = [retriever.teacher.calibration] * len(judged)
    return [
        Hit(document.id, float(judge.probability(score)), score, document.content, dict(document.metadata))
        for (document, score), judge in zip(scored[:k], judges, strict=False)
    ]


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
