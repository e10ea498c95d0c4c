"""How closely the retriever follows the reranker it was distilled from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rabtriever.evaluation.runs import ranked


class Agreement:
    """Agreement of retriever and reranker, gathered query by query."""

    def __init__(self) -> None:
        self.queries = self.agreed = 0
        self.retriever: list[np.ndarray] = []
        self.reranker: list[np.ndarray] = []

    def add(self, retriever: Mapping[str, float], reranker: Mapping[str, float]) -> None:
        """Count one query.

        Args:
            retriever: Document id -> log-odds.
            reranker: The same; the two need not have scored the same documents.
        """
        self.queries += 1
        self.agreed += bool(retriever and reranker) and ranked(retriever)[0] == ranked(reranker)[0]
        both = [document for document in reranker if document in retriever]
        self.retriever.append(np.array([retriever[document] for document in both], dtype=np.float64))
        self.reranker.append(np.array([reranker[document] for document in both], dtype=np.float64))

    def report(self, retriever: Mapping[str, float], reranker: Mapping[str, float]) -> dict[str, float | None]:
        """What the queries so far say.

        Args:
            retriever: Its measures.
            reranker: Its measures, under the same names.

        Returns:
            Each measure's ratio retriever / reranker, None where the reranker has 0; ``top1_agreement``, the share of
            queries on which both put the same document first; ``pearson``, the correlation of their log-odds over all
            pairs that both scored, None where it is undefined.
        """
        ratios = {name: retriever[name] / value if value else None for name, value in reranker.items()}
        return {**ratios, "top1_agreement": self.agreed / self.queries, "pearson": self._pearson()}

    def _pearson(self) -> float | None:
        mine, theirs = np.concatenate(self.retriever), np.concatenate(self.reranker)
        if len(mine) < 2 or np.ptp(mine) == 0 or np.ptp(theirs) == 0:
            return None
        return float(np.corrcoef(mine, theirs)[0, 1])
