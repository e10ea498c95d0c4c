"""Quality of a ranking, by ir_measures."""

from __future__ import annotations

from rabtriever.data import Qrels, Run
from rabtriever.errors import InputError
from rabtriever.evaluation.runs import ranked

MEASURES = {"R@1": "R@1", "R@3": "R@3", "R@10": "R@10", "MRR@10": "RR@10", "nDCG@10": "nDCG@10"}
"""Our names of the measures -> what ir_measures calls them."""

DEPTH = 10
"""No measure looks deeper."""


def measure(qrels: Qrels, run: Run) -> dict[str, float]:
    """Mean of every measure over the queries of ``qrels``; one that is not in the run scores 0.

    ``R@k`` is recall, the share of a query's relevant documents among its first k: with one relevant document, whether
    it is there. Grades above 0 are relevant. Ties are broken as in trec_eval, by the greater document id.

    Args:
        qrels: Query id -> document id -> grade.
        run: Query id -> document id -> score; queries without judgements are ignored.

    Returns:
        ``R@1``, ``R@3``, ``R@10``, ``MRR@10`` and ``nDCG@10``, each in [0, 1].

    Raises:
        InputError: There are no judgements, or a score is NaN or infinite.
    """
    import ir_measures

    if not qrels:
        raise InputError("no judged queries to measure a run on: give qrels with at least one")
    # Ranks stand in for scores because ir_measures' backends break ties in opposite ways, MRR's unlike the others'.
    ranks = {
        query: {document: -float(rank) for rank, document in enumerate(ranked(run[query])[:DEPTH])}
        for query in qrels
        if run.get(query)
    }
    parsed = {name: ir_measures.parse_measure(theirs) for name, theirs in MEASURES.items()}
    values = ir_measures.calc_aggregate(list(parsed.values()), qrels, ranks)
    return {name: float(values[theirs]) for name, theirs in parsed.items()}
