"""BM25, the baseline that only sees shared words."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import InputError


class BM25:
    """BM25 over a corpus (Lucene's variant, k1 = 1.5, b = 0.75), English stop words left out, words not stemmed.

    Example:
        >>> bm25 = BM25([Document("lamp", "turns on the light"), Document("map", "finds a way")])
        >>> list(bm25("a light in the dark"))
        ['lamp']

    Args:
        documents: What to search.

    Raises:
        InputError: There is no document.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        import bm25s

        ids, texts = [], []
        for document in documents:
            ids.append(document.id)
            texts.append(document.content)
        if not ids:
            raise InputError("no documents for BM25: give at least one")
        self.ids = ids
        tokens = _tokenize(texts)
        # bm25s cannot index a corpus without a single term; nothing can be found in one either.
        self._index = bm25s.BM25() if any(tokens) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def __call__(self, query: str) -> dict[str, float]:
        """Scores of the documents that share a term with the query; the others are not retrieved.

        Args:
            query: Its text.

        Returns:
            Document id -> score above 0.
        """
        scores = self.scores(query)
        return {self.ids[i]: float(scores[i]) for i in np.flatnonzero(scores > 0)}

    def scores(self, query: str) -> np.ndarray:
        """Every document's score, in the corpus's order: float32 (n,), 0 without a common term."""
        [terms] = _tokenize([query])
        if self._index is None or not terms:
            return np.zeros(len(self.ids), dtype=np.float32)
        result: np.ndarray = self._index.get_scores(terms).astype(np.float32)
        return result


def _tokenize(texts: list[str]) -> list[list[str]]:
    import bm25s

    tokens: list[list[str]] = bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
    return tokens
