"""The one search path of library, command line and server: retrieve, fuse with BM25, rerank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from rabtriever.choices import HYBRIDS, MODES
from rabtriever.errors import InputError
from rabtriever.index.hits import Hit, Ranking
from rabtriever.index.view import View
from rabtriever.rerankers.base import Reranker
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.fold import score_latents
from rabtriever.scoring.layout import ScoreLayout

RRF = 60  # of reciprocal-rank fusion: 1 / (RRF + rank), Cormack et al. 2009


class Retriever(Protocol):
    """What an index needs of a retriever (:class:`rabtriever.Rabtriever`)."""

    fingerprint: str
    layout: ScoreLayout
    calibration: Calibration
    name_or_path: str | None

    @property
    def reranker(self) -> Reranker | None:
        """Scores the best hits if a search asks for it."""

    def encode_query(self, inputs: Sequence[str]) -> Any:  # noqa: ANN401
        """Returns latents float32 (n, dim)."""

    def encode_document(self, inputs: Sequence[str]) -> Any:  # noqa: ANN401
        """Returns latents float32 (n, dim)."""


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        k: Hits a query, at most.
        where: SQL condition over ``id``, ``title``, ``text`` and metadata, such as ``title LIKE 'A%'`` or
            ``json_get_int(metadata, 'year') > 2001`` (also ``json_get_string``, ``json_get_bool``, ...).
        mode: ``exact``: the best of all documents. ``ann``: of the clusters that score best, a small share of the
            documents. ``auto``: exact up to the index's ``exact_up_to`` documents, approximate beyond. ``bm25``:
            BM25's ranking, of documents that share a word with the query, with the retriever's log-odds.
        hybrid: ``rrf``: order by reciprocal-rank fusion with BM25's ranking. None: the retriever's ranking.
        rerank: How many of the best hits the reranker scores; None: none.
        threshold: Least probability of a hit.

    Raises:
        InputError: ``k`` below 1, ``rerank`` below 1, an unknown ``mode`` or ``hybrid``, or a ``threshold`` outside
            [0, 1].
    """

    k: int = 10
    where: str | None = None
    mode: str = "auto"
    hybrid: str | None = None
    rerank: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.k < 1:
            raise InputError(f"k {self.k}: ask for at least one hit", param="k")
        if self.rerank is not None and self.rerank < 1:
            raise InputError(f"rerank {self.rerank}: let the reranker score at least one document", param="rerank")
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r}: choose one of {', '.join(MODES)}", param="mode")
        if self.hybrid is not None and self.hybrid not in HYBRIDS:
            raise InputError(f"hybrid {self.hybrid!r}: choose one of {', '.join(HYBRIDS)}", param="hybrid")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"threshold {self.threshold}: a probability lies in [0, 1]", param="threshold")

    @property
    def depth(self) -> int:
        """Hits that must be retrieved, for the reranker or to return."""
        return max(self.k, self.rerank or 0)


def retrieve(view: View, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions) -> list[Ranking]:
    """Ranks documents for each query, without a reranker.

    Args:
        view: The version of the index to search.
        texts: n queries, for BM25.
        vectors: Theirs, float32 (n, dim).
        options: How to search.

    Returns:
        A ranking of at most ``options.depth`` documents for each query; ties in the order of insertion.

    Raises:
        InputError: a condition that cannot be read, a query latent that is not finite, or BM25 without a text index.
    """
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1)) if len(vectors) else []
    if len(bad):
        raise InputError(f"query {bad[0]}: its latent is NaN or infinite", param="query", position=int(bad[0]))
    allowed = None if options.where is None else view.snapshot.filter(options.where)
    if options.mode == "bm25":
        lexical = [view.snapshot.bm25_search(text, options.depth, options.where) for text in texts]
        found = [_scored(ordinals, vector, view) for ordinals, vector in zip(lexical, vectors, strict=True)]
    elif options.hybrid:
        n_lexical = max(RRF, 4 * options.depth)
        rankings = view.search(vectors, n_lexical, options.mode, allowed)
        lexical = [view.snapshot.bm25_search(text, n_lexical, options.where) for text in texts]
        parts = zip(rankings, lexical, vectors, strict=True)
        found = [fuse_rankings(ranking, _scored(words, vector, view)) for ranking, words, vector in parts]
    else:
        found = view.search(vectors, options.depth, options.mode, allowed)
    return [Ranking(ranking.ordinals[: options.depth], ranking.log_odds[: options.depth]) for ranking in found]


def fuse_rankings(first: Ranking, second: Ranking) -> Ranking:
    """Orders the documents of two rankings by reciprocal-rank fusion; ties in the order of insertion."""
    scores: dict[int, float] = {}
    fused: dict[int, float] = {}
    for ranking in (first, second):
        pairs = zip(ranking.ordinals.tolist(), ranking.log_odds.tolist(), strict=True)
        for rank, (ordinal, log_odds) in enumerate(pairs, 1):
            scores.setdefault(ordinal, log_odds)
            fused[ordinal] = fused.get(ordinal, 0.0) + 1 / (RRF + rank)
    best = sorted(fused, key=lambda ordinal: (-fused[ordinal], ordinal))
    return Ranking(np.array(best, np.int64), np.array([scores[ordinal] for ordinal in best], np.float32))


class RerankPlan:
    """What a reranker must score for the hits of some queries, and what becomes of the scores.

    Args:
        queries: n queries.
        hits: Theirs, best first.
        depth: How many of the best hits of each the reranker scores.

    Attributes:
        queries: The queries.
        documents: The different texts of those hits.
        pairs: int64 (p, 2) of positions in ``queries`` and ``documents``, each pair once.
    """

    def __init__(self, queries: Sequence[str], hits: Sequence[Sequence[Hit]], depth: int) -> None:
        self.queries, self._hits, self._depth = list(queries), hits, depth
        chosen = [(q, hit.text) for q, of_query in enumerate(hits) for hit in of_query[:depth]]
        rows = {text: row for row, text in enumerate(dict.fromkeys(text for _, text in chosen))}
        self.documents = list(rows)
        self._pair = {pair: i for i, pair in enumerate(dict.fromkeys(chosen))}
        self.pairs = np.array([(q, rows[text]) for q, text in self._pair], np.int64).reshape(-1, 2)

    def apply(self, log_odds: np.ndarray, reranker: Calibration, calibration: Calibration) -> list[list[Hit]]:
        """Orders all hits by one score: the reranker's log-odds, where there are any, on the retriever's scale.

        Both models' log-odds stand for probabilities; a hit that the reranker did not score keeps the retriever's.

        Args:
            log_odds: float32 (p,), the reranker's.
            reranker: The reranker's calibration.
            calibration: The retriever's, which makes all probabilities.
        """
        converted = calibration.convert(log_odds, reranker)
        probabilities = calibration.probability(converted)
        result = []
        for q, of_query in enumerate(self._hits):
            rows = [self._pair[q, hit.text] for hit in of_query[: self._depth]]
            scored = [
                replace(hit, log_odds=float(converted[row]), probability=float(probabilities[row]), reranked=True)
                for hit, row in zip(of_query, rows, strict=False)
            ]
            result.append(sorted([*scored, *of_query[len(rows) :]], key=lambda hit: -hit.log_odds))
        return result


def cut_hits(hits: Sequence[Sequence[Hit]], options: SearchOptions) -> list[list[Hit]]:
    """Returns the first ``k`` hits of each query, of those that reach the threshold."""
    least = options.threshold or 0.0
    return [[hit for hit in of_query[: options.k] if hit.probability >= least] for of_query in hits]


def _scored(ordinals: np.ndarray, vector: np.ndarray, view: View) -> Ranking:
    """Returns BM25's documents in BM25's order, with the retriever's log-odds."""
    log_odds = np.empty(len(ordinals), np.float32)
    row = {ordinal: i for i, ordinal in enumerate(ordinals.tolist())}
    for some, latents in view.snapshot.latents(np.sort(ordinals)):
        found = score_latents(vector[None], latents, view.layout)[0]
        log_odds[[row[ordinal] for ordinal in some.tolist()]] = found
    return Ranking(ordinals, log_odds)
