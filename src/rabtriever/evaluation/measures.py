"""Quality of a ranking, by ir_measures, and agreement of two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rabtriever.data import Qrels, Run
from rabtriever.errors import InputError
from rabtriever.evaluation.runs import sort_run

MEASURES = {"R@1": "R@1", "R@3": "R@3", "R@10": "R@10", "MRR@10": "RR@10", "nDCG@10": "nDCG@10"}
"""Names in reports -> ir_measures' names."""

MAX_CUTOFF = 10  # no measure looks deeper
CALIBRATION_BINS = 15
RESAMPLES = 2000


def interval(
    values: Sequence[float], seed: int = 0, statistic: Callable[..., np.ndarray] = np.mean
) -> tuple[float, float]:
    """Returns what 95% of the means of resampled ``values`` lie between (the percentile bootstrap).

    Args:
        values: One of each query.
        seed: Of the resampling; with the same one, two systems' queries are resampled alike.
        statistic: ``np.mean``, or another that takes ``axis``.
    """
    array = np.asarray(values)
    rows = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.percentile(statistic(array[rows], axis=1), [2.5, 97.5])
    return float(low), float(high)


def measure(qrels: Qrels, run: Run) -> dict[str, float]:
    """Computes the mean of every measure over the queries of ``qrels``; arguments as in :func:`measure_queries`.

    A query's own document, if the corpus holds its queries, must be in neither argument:
    :func:`rabtriever.evaluation.evaluate` leaves it out.
    """
    return mean_measures(measure_queries(qrels, run))


def mean_measures(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of every measure over what :func:`measure_queries` returned."""
    return {name: sum(row[name] for row in rows.values()) / len(rows) for name in MEASURES}


def measure_queries(qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Computes every measure of each query of ``qrels``; 0 for one that is not in the run.

    ``R@k`` is recall, the share of a query's relevant documents among its first k: with one relevant document, whether
    it is there. Grades above 0 are relevant. Ties are broken as in trec_eval, by the greater document id.

    Args:
        qrels: Query id -> document id -> grade.
        run: Query id -> document id -> score; queries that are not in ``qrels`` are ignored.

    Returns:
        Query id -> ``R@1``, ``R@3``, ``R@10``, ``MRR@10`` and ``nDCG@10``, each in [0, 1], in the order of ``qrels``.

    Raises:
        InputError: ``qrels`` is empty, or a score is NaN or infinite.
    """
    import ir_measures

    if not qrels:
        raise InputError("no labelled queries to measure a run on: give qrels with at least one")
    # Ranks stand in for scores because ir_measures' backends break ties in opposite ways, MRR's unlike the others'.
    ranks = {
        query: {document: -float(rank) for rank, document in enumerate(sort_run(run[query])[:MAX_CUTOFF])}
        for query in qrels
        if run.get(query)
    }
    names = {ir_measures.parse_measure(measure): name for name, measure in MEASURES.items()}
    rows = {query: dict.fromkeys(MEASURES, 0.0) for query in qrels}
    for value in ir_measures.iter_calc(list(names), qrels, ranks):
        rows[value.query_id][names[value.measure]] = float(value.value)
    return rows


def agreement(retriever: Run, reranker: Run) -> dict[str, float | None]:
    """Returns how closely a retriever follows its reranker; they need not have scored the same documents of a query.

    Args:
        retriever: Query id -> document id -> log-odds, best first.
        reranker: The same.

    Returns:
        ``top1_agreement``, the share of queries on which both rank the same document first; ``pearson``, the
        correlation of their log-odds over all pairs that both scored, None where it is undefined.
    """
    firsts = [(next(iter(retriever[query]), None), next(iter(reranker[query]), None)) for query in retriever]
    pairs = [
        (score, reranker[query][document])
        for query, scores in retriever.items()
        for document, score in scores.items()
        if document in reranker[query]
    ]
    x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    defined = len(pairs) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    return {
        "top1_agreement": sum(a is not None and a == b for a, b in firsts) / len(firsts),
        "pearson": float(np.corrcoef(x, y)[0, 1]) if defined else None,
    }


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean gap between predicted and true share over bins of equal width, weighted by their pairs.

    Args:
        probabilities: float (n,), at least one.
        labels: bool (n,), whether the document is relevant.
    """
    bin_of = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bin_of, weights=probabilities - labels)
    return float(np.abs(gaps).sum() / len(labels))
