"""The one search path of library, command line and server: retrieve, rerank."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from rabtriever.choices import MODES
from rabtriever.errors import InputError, TextError, shorten
from rabtriever.index.encoding import Retriever
from rabtriever.index.hits import Found, Hit, Hits
from rabtriever.index.table_version import TableVersion
from rabtriever.index.view import View
from rabtriever.rerankers.base import Reranker
from rabtriever.scoring.calibration import LIST_DEPTH, Calibration
from rabtriever.scoring.fold import score_latents
from rabtriever.scoring.layout import ScoreLayout


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        k: Hits a query, at most.
        where: SQL condition over ``id``, ``title``, ``text`` and metadata, such as ``title LIKE 'A%'`` or
            ``json_get_int(metadata, 'year') > 2001`` (also ``json_get_string``, ``json_get_bool``, ...). A value of
            another kind is null; so is a fraction under ``json_get_int``: take ``json_get_float``.
        mode: ``exact``: the best of all documents. ``ann``: of the clusters that score best, a small share of the
            documents. ``auto``: exact up to the index's ``exact_up_to`` documents, approximate beyond. ``bm25``:
            BM25's ranking, of documents that share a word with the query, with the retriever's log-odds. ``encoder``:
            the best of all documents by the similarity of the retriever's encoder alone.
        rerank: Number of best hits that the reranker scores, and others of the same texts; all hits are then ordered
            by log-odds. None: no reranker.
        threshold: Least probability of a hit.
        refuse: Return nothing where nothing fits, but to this share of the requests that have an answer, at most
            (:class:`rabtriever.scoring.refusal.Refusal`). A reranker has no say in that, and ``where`` is no part of
            the promise: it may leave out the answer.

    Raises:
        InputError: ``k`` below 1, ``rerank`` below 1, an unknown ``mode``, a ``threshold`` outside [0, 1], or
            ``refuse`` outside (0, 1) or with the mode ``encoder`` or ``bm25``.
    """

    k: int = 10
    where: str | None = None
    mode: str = "auto"
    rerank: int | None = None
    threshold: float | None = None
    refuse: float | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.k < 1:
            raise InputError(f"k {self.k}: ask for at least one hit", param="k")
        if self.rerank is not None and self.rerank < 1:
            raise InputError(f"rerank {self.rerank}: let the reranker score at least one document", param="rerank")
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r}: choose one of {', '.join(MODES)}", param="mode")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"threshold {self.threshold}: a probability lies in [0, 1]", param="threshold")
        if self.refuse is not None and not 0 < self.refuse < 1:
            raise InputError(f"refuse {self.refuse}: a share of requests lies between 0 and 1", param="refuse")
        if self.refuse is not None and self.mode in ("encoder", "bm25"):
            message = "refuse: the limits are those of the retriever's own ranking; choose another mode"
            raise InputError(message, param="refuse")

    @property
    def depth(self) -> int:
        """Hits that must be retrieved: to return, to rerank, and as rivals in probabilities."""
        return max(self.k, self.rerank or 0, LIST_DEPTH)


class SearchKeywords(TypedDict, total=False):
    """Keywords of :meth:`rabtriever.Index.search`: those of :class:`SearchOptions`, a reranker, context, progress."""

    where: str | None
    mode: str
    rerank: int | None
    threshold: float | None
    refuse: float | None
    reranker: Reranker | None
    history: Sequence[str] | Sequence[Sequence[str]] | None
    used: Sequence[str] | Sequence[Sequence[str]] | None
    show_progress_bar: bool


def query_vectors(
    texts: Sequence[str], latents: np.ndarray, options: SearchOptions, layout: ScoreLayout, retriever: Retriever
) -> np.ndarray:
    """Returns the vectors float32 (n, dim) that queries are searched with; arguments as of :meth:`Index.retrieve`.

    Raises:
        InputError: latents of another model, or that are not finite.
    """
    latents, shape = np.asarray(latents, np.float32), (len(texts), layout.dim)
    if latents.shape != shape:
        raise InputError(f"query latents {latents.shape}: expected {shape}; encode with the index's retriever")
    not_finite = np.flatnonzero(~np.isfinite(latents).all(axis=1)).tolist()
    if not_finite:
        message = f"query {shorten(texts[not_finite[0]])}: its latent is NaN or infinite; check the model's weights"
        raise InputError(message, param="query", position=not_finite[0])
    return retriever.encoder_only(latents, texts) if options.mode == "encoder" else latents


def find(view: View, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions) -> list[Found]:
    """Finds rows for each query, of the view alone but for BM25, which reads the whole table.

    Args:
        view: What is searched.
        texts: n queries.
        vectors: float32 (n, dim), from :func:`query_vectors`.
        options: How to search.

    Returns:
        ``options.depth`` rows a query, at most.
    """
    snapshot = view.snapshot
    if options.mode == "bm25":
        return [_find_by_words(snapshot, *query, options) for query in zip(texts, vectors, strict=True)]
    depth = min(options.depth, max(1, len(snapshot)))  # of any k, however large
    allowed = None if options.where is None else snapshot.filter(options.where)
    rankings = view.search(vectors, depth, options.mode, allowed)
    return [Found(snapshot.rows(ranking.ordinals), ranking.log_odds) for ranking in rankings]


def _find_by_words(version: TableVersion, text: str, vector: np.ndarray, options: SearchOptions) -> Found:
    rows = version.bm25_search(text, options.depth, options.where)
    return Found(rows, score_latents(vector[None], version.latents_of(rows), version.layout)[0])


def make_hits(found: Found, version: TableVersion, calibration: Calibration) -> list[Hit]:
    """Returns what was found as hits, with the probabilities of this list."""
    probabilities = calibration.list_probability(found.log_odds, found.log_odds[:LIST_DEPTH]).tolist()
    return [
        Hit(document.id, probability, value, document.content, deepcopy(dict(document.metadata)))
        for document, probability, value in zip(
            version.documents(found.rows), probabilities, found.log_odds.tolist(), strict=True
        )
    ]


class RerankPlan:
    """The pairs that a reranker must score for the hits of some queries, and the order that follows from the scores.

    Args:
        queries: n queries.
        hits: The hits of each, best first.
        options: How many of the best hits of each the reranker scores, and how many are returned.

    Attributes:
        documents: The different texts of those hits.
        pairs: int64 (p, 2) of positions in ``queries`` and ``documents``, each pair once.
        ids: The id of each pair's document, of several with its text the first.
    """

    def __init__(self, queries: Sequence[str], hits: Sequence[Sequence[Hit]], options: SearchOptions) -> None:
        self.queries, self._hits, depth = list(queries), hits, options.rerank or 0
        self._pool = max(options.k, depth)  # further hits are but rivals in probabilities
        ids: dict[tuple[int, str], str] = {}
        for q, of_query in enumerate(hits):
            for hit in of_query[:depth]:
                ids.setdefault((q, hit.text), hit.id)
        rows = {text: row for row, text in enumerate(dict.fromkeys(text for _, text in ids))}
        self.documents, self.ids = list(rows), list(ids.values())
        self._row_of_pair = {pair: row for row, pair in enumerate(ids)}
        self.pairs = np.array([(q, rows[text]) for q, text in ids], np.int64).reshape(-1, 2)

    def apply(self, log_odds: np.ndarray, reranker: Calibration, retriever: Retriever) -> list[list[Hit]]:
        """Orders all hits by one score: the reranker's log-odds, where it gave any, on the retriever's scale.

        Both models' log-odds stand for probabilities; a hit that the reranker scored has their sum, weighted by the
        retriever's ``rerank_share``. Others keep the retriever's. Ties stay in the order they came in.

        Args:
            log_odds: float32 (p,), the reranker's.
            reranker: The reranker's calibration.
            retriever: Its ``reranked_calibration`` gives all probabilities.

        Raises:
            InputError: a score that is NaN or infinite; the message names the query and the document's id.
        """
        not_finite = np.flatnonzero(~np.isfinite(log_odds)).tolist()
        if not_finite:
            bad = not_finite[0]
            pair = f"document {self.ids[bad]!r}, query {shorten(self.queries[self.pairs[bad, 0]])}"
            raise InputError(f"{pair}: the reranker's log-odds are NaN or infinite; check its weights", position=bad)
        converted, share = retriever.calibration.convert(log_odds, reranker), retriever.rerank_share
        result = []
        for q, of_query in enumerate(self._hits):
            scored = []
            for rank, hit in enumerate(of_query):
                row = self._row_of_pair.get((q, hit.text))
                if row is not None:
                    value = share * float(converted[row]) + (1 - share) * hit.log_odds
                    hit = replace(hit, log_odds=value, reranked=True)
                scored.append((rank, hit))
            ranked = sorted(scored, key=lambda pair: -pair[1].log_odds)
            values = np.array([hit.log_odds for _, hit in ranked])
            calibration = retriever.reranked_calibration
            probabilities = calibration.list_probability(values, values[:LIST_DEPTH]).tolist()
            in_pool = zip(ranked, probabilities, strict=True)
            result.append([replace(hit, probability=p) for (rank, hit), p in in_pool if rank < self._pool])
        return result


def rerank_hits(
    queries: Sequence[str],
    hits: Sequence[Sequence[Hit]],
    options: SearchOptions,
    reranker: Reranker | None,
    retriever: Retriever,
    show_progress_bar: bool = False,
) -> list[list[Hit]]:
    """Reranks the hits of some queries; arguments as of :class:`RerankPlan`, and the retriever that found them.

    Raises:
        InputError: no reranker, or a pair of which it makes NaN; the message names the query and the document's id.
    """
    if reranker is None:
        raise InputError("rerank: the retriever has no reranker; give one", param="rerank")
    plan = RerankPlan(queries, hits, options)
    if not len(plan.pairs):
        return [list(of_query) for of_query in hits]
    try:
        scores = reranker.score(plan.queries, plan.documents, plan.pairs, show_progress_bar=show_progress_bar)
    except TextError as error:
        if error.kind != "document":
            raise
        row = int(np.flatnonzero(plan.pairs[:, 1] == error.position)[0])
        message = f"document {plan.ids[row]!r}: {shorten(error.text)} {error.fault}"
        raise InputError(message, position=row) from None
    return plan.apply(scores.log_odds, reranker.calibration, retriever)


def find_closest(hits: Sequence[Sequence[Hit]], options: SearchOptions, retriever: Retriever) -> list[Hit | None]:
    """Returns, of each query that nothing fits, what came closest by the retriever alone; None of the others.

    Raises:
        InputError: the retriever cannot promise to refuse so few.
    """
    if options.refuse is None:
        return [None] * len(hits)
    limit = retriever.refusal.limit(options.refuse)
    best = [max(of_query, key=lambda hit: hit.log_odds, default=None) for of_query in hits]
    return [hit if hit is not None and hit.log_odds < limit else None for hit in best]


def cut_hits(
    hits: Sequence[Sequence[Hit]], options: SearchOptions, closest: Sequence[Hit | None] | None = None
) -> list[Hits]:
    """Returns the first ``k`` hits of each query, of those that reach the threshold; none where nothing fits."""
    least, result = options.threshold or 0.0, []
    for of_query, refused in zip(hits, closest or [None] * len(hits), strict=True):
        good = [hit for hit in of_query if hit.probability >= least and refused is None]
        result.append(Hits(good[: options.k]))
        result[-1].closest = refused
    return result
