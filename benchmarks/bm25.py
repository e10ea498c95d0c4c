"""bm25s, a BM25 beside the index's own: a row of the benchmarks under its own name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rabtriever.data import Document


class BM25S:
    """BM25 over a corpus by bm25s (Lucene's variant, k1 = 1.5, b = 0.75), English stop words left out, no stemming.

    Args:
        documents: What to search, at least one with a term.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        import bm25s  # of the extra `benchmarks`

        ids, texts = zip(*((document.id, document.content) for document in documents), strict=True)
        self.ids: list[str] = list(ids)
        self._index = bm25s.BM25()
        self._index.index(_tokenize(texts), show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """Returns every document's score, float32 (n,) in the corpus's order; 0 without a common term."""
        [terms] = _tokenize([query])
        if not terms:
            return np.zeros(len(self.ids), np.float32)
        return self._index.get_scores(terms).astype(np.float32)

    def search(self, query: str, k: int) -> list[str]:
        """Returns the ids of the ``k`` best documents that share a term with the query, best first."""
        scores = self.scores(query)
        return [self.ids[i] for i in np.argsort(-scores, kind="stable")[:k] if scores[i] > 0]


def _tokenize(texts: Iterable[str]) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
