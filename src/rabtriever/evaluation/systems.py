"""The systems that are compared: retriever, reranker, BM25."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rabtriever.bm25 import BM25
from rabtriever.data import Document, RetrievalData
from rabtriever.errors import InputError
from rabtriever.evaluation.evaluate import System
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever

SYSTEMS = ("retriever", "reranker", "bm25")
CANDIDATES = 100  # what the reranker scores of a corpus too large to be scored whole


def load_systems(names: Sequence[str], data: RetrievalData, model: str | Path, depth: int = 500) -> dict[str, System]:
    """Make the named systems over a data set's documents.

    Args:
        names: Of ``retriever``, ``reranker``, ``bm25``.
        data: The documents.
        model: A retriever's folder; a reranker's is enough if ``retriever`` is not named.
        depth: Largest corpus that the reranker scores whole; of a larger one it scores the best 100 of the retriever,
            or of BM25 if the retriever is not named.

    Raises:
        InputError: an unknown name, or a model that is none.
    """
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown or not names:
        raise InputError(f"systems: {unknown[0] if unknown else 'none given'!r}; choose from {', '.join(SYSTEMS)}")
    documents = list(data.documents.values())
    systems: dict[str, System] = {}
    if "bm25" in names:
        systems["bm25"] = BM25(documents)
    if "retriever" in names:
        retriever = Rabtriever.from_pretrained(model)
        systems["retriever"] = RetrieverSystem(retriever, documents)
    if "reranker" in names:
        teacher = retriever.teacher if "retriever" in names else GenerativeReranker.from_pretrained(model)
        first_stage = None
        if len(documents) > depth:
            first_stage = systems.get("retriever") or systems.get("bm25") or BM25(documents)
        systems["reranker"] = RerankerSystem(teacher, documents, first_stage)
    return {name: systems[name] for name in names}


class RetrieverSystem:
    """The student over documents encoded beforehand."""

    def __init__(self, retriever: Rabtriever, documents: Sequence[Document]) -> None:
        self.retriever, self.ids = retriever, [document.id for document in documents]
        self.latents = retriever.encode_document([document.content for document in documents], show_progress=True)

    def __call__(self, query: str) -> dict[str, float]:
        """Log-odds of every document."""
        log_odds = self.retriever.similarity(self.retriever.encode_query([query]), self.latents)[0]
        return dict(zip(self.ids, log_odds.tolist(), strict=True))


class RerankerSystem:
    """The teacher over all documents, whose caches it keeps, or over a first stage's candidates."""

    def __init__(self, reranker: GenerativeReranker, documents: Sequence[Document], first_stage: System | None) -> None:
        self.reranker, self.first_stage = reranker, first_stage
        self.contents = {document.id: document.content for document in documents}

    def __call__(self, query: str) -> dict[str, float]:
        """Log-odds of every candidate."""
        ids = list(self.contents)
        if self.first_stage is not None:
            scores = self.first_stage(query)
            order = np.argsort(-np.fromiter(scores.values(), dtype=np.float64), kind="stable")[:CANDIDATES]
            ids = [list(scores)[i] for i in order]
            if not ids:
                return {}
        log_odds = self.reranker.log_odds([query], [self.contents[i] for i in ids])[0]
        return dict(zip(ids, log_odds.tolist(), strict=True))
