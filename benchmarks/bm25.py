"""BM25 by bm25s (Lucene's variant, k1 = 1.5, b = 0.75), English stop words left out, words not stemmed."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np


class BM25S:
    """BM25 scores of texts.

    Args:
        texts: The corpus.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.count = len(texts)
        tokens = _tokenize(texts)
        # bm25s cannot index a corpus without a single term; nothing can be found in one either.
        self.index = bm25s.BM25() if any(tokens) else None
        if self.index is not None:
            self.index.index(tokens, show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """Returns every text's score, float32 (n,); 0 without a common term."""
        [terms] = _tokenize([query])
        if self.index is None or not terms:
            return np.zeros(self.count, np.float32)
        return self.index.get_scores(terms).astype(np.float32)


def _tokenize(texts: Sequence[str]) -> list[list[str]]:
    return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
