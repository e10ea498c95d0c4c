"""The baseline that only sees shared words: an index of texts alone, for BM25 without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.index.learned import Learned
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.layout import ScoreLayout
from rabtriever.scoring.refusal import Refusal


class ConstantRetriever:
    """A retriever that gives every document log-odds 0, so that an index needs no model for BM25."""

    fingerprint = "constant"
    layout = ScoreLayout(n_inner=1)
    calibration = reranked_calibration = Calibration()
    refusal = Refusal()
    name_or_path: str | None = None
    reranker = None
    rerank_share = 1.0

    def encode_query(self, inputs: Sequence[str]) -> np.ndarray:
        """Returns zeros, float32 (n, dim)."""
        return np.zeros((len(inputs), self.layout.dim), np.float32)

    def encode_document(self, inputs: Sequence[str]) -> np.ndarray:
        """Returns zeros, float32 (n, dim)."""
        return self.encode_query(inputs)

    def with_learned(self, learned: Learned) -> ConstantRetriever:
        """Returns itself: it cannot learn."""
        return self

    def encoder_only(self, latents: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Raises InputError: it has no encoder."""
        raise InputError("mode 'encoder': an index of texts alone has no encoder; choose another mode", param="mode")


def lexical_index(documents: Iterable[Document]) -> Index:
    """Makes a temporary index without a model; raises InputError without documents, or if two have one id.

    ``search(..., mode="bm25")`` ranks by Lance's BM25 over title and text (k1 = 1.2, b = 0.75; English stop words left
    out, words stemmed by Porter's second English stemmer) and finds only documents that share a word with the query.
    ``mode="exact"`` finds all documents in the order of insertion, for a reranker to order.
    """
    return Index.build(None, ConstantRetriever(), documents)
