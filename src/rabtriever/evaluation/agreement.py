"""How closely the retriever follows the reranker it was distilled from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Agreement:
    """Agreement of retriever and reranker, added up query by query."""

    def __init__(self) -> None:
        self.n_queries = self.n_agreed = 0
        self._log_odds: list[np.ndarray] = []

    def add(self, retriever: Mapping[str, float], reranker: Mapping[str, float]) -> None:
        """Adds one query.

        Args:
            retriever: Document id -> log-odds, best first.
            reranker: The same; the two need not have scored the same documents.
        """
        self.n_queries += 1
        self.n_agreed += bool(retriever and reranker) and next(iter(retriever)) == next(iter(reranker))
        pairs = [(score, reranker[document]) for document, score in retriever.items() if document in reranker]
        self._log_odds.append(np.array(pairs, dtype=np.float64).reshape(-1, 2))

    def report(self, retriever: Mapping[str, float], reranker: Mapping[str, float]) -> dict[str, float | None]:
        """Returns how the two agree on the queries so far.

        Args:
            retriever: Its measures.
            reranker: Its measures, under the same names.

        Returns:
            Each measure's ratio retriever / reranker, None where the reranker has 0; ``top1_agreement``, the share of
            queries on which both rank the same document first; ``pearson``, the correlation of their log-odds over all
            pairs that both scored, None where it is undefined.
        """
        ratios = {name: retriever[name] / value if value else None for name, value in reranker.items()}
        return {**ratios, "top1_agreement": self.n_agreed / self.n_queries, "pearson": self._pearson()}

    def _pearson(self) -> float | None:
        retriever, reranker = np.concatenate(self._log_odds).T
        if len(retriever) < 2 or np.ptp(retriever) == 0 or np.ptp(reranker) == 0:
            return None
        return float(np.corrcoef(retriever, reranker)[0, 1])
