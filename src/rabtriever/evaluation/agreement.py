"""How closely the retriever follows the reranker it was distilled from."""

from __future__ import annotations

import numpy as np

from rabtriever.data import Run


def agreement(retriever: Run, reranker: Run) -> dict[str, float | None]:
    """Returns how two systems agree on the same queries; the two need not have scored the same documents.

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
