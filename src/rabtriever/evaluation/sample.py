"""A sample of a data set's queries, as texts and positions, and measures of scores of all its documents."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from rabtriever.data import RetrievalData, train_dev_split
from rabtriever.errors import InputError
from rabtriever.evaluation.measures import calibration_error


def draw_sample(data: RetrievalData, split: str | None, limit: int, depth: int, seed: int) -> Sample:
    """Draws at most ``limit`` labelled queries of a split, or any queries where nothing is labelled.

    The split is by default ``dev``, held out of ``train`` where there is none, else ``test``, else the first.

    Raises:
        InputError: no such split, no queries, or ``limit`` or ``depth`` below 1.
    """
    if min(limit, depth) < 1:
        raise InputError(f"{limit} queries and {depth} documents of each: read at least 1 of both")
    documents = list(data.documents)
    contents = [data.documents[document].content for document in documents]
    if split is None and data.qrels:
        data = train_dev_split(data) if "train" in data.qrels else data
        split = next((name for name in ("dev", "test") if name in data.qrels), next(iter(data.qrels)))
    if split is None:
        chosen = list(data.queries)
        if not chosen:
            raise InputError(f"{data.name} has no queries: add some to queries.jsonl")
        random.Random(seed).shuffle(chosen)
        chosen, relevant = chosen[:limit], None
    else:
        position = {document: i for i, document in enumerate(documents)}
        positives = data.positives(split, limit, seed)
        chosen, relevant = list(positives), [{position[d] for d in found} for found in positives.values()]
    own = [(q, documents.index(query)) for q, query in enumerate(chosen) if data.is_own_document(query, query)]
    return Sample(
        split, chosen, [data.queries[query] for query in chosen], contents, relevant, own, min(depth, len(contents))
    )


@dataclass(frozen=True)
class Sample:
    """Queries, their ids, and all documents.

    ``relevant`` holds the positions of each query's relevant documents, None unlabelled. ``own`` are (query, document)
    positions of documents that are the query itself. ``depth`` is how many documents of a query are read.
    """

    split: str | None
    ids: list[str]
    queries: list[str]
    documents: list[str]
    relevant: list[set[int]] | None
    own: list[tuple[int, int]]
    depth: int

    def recall(self, scores: np.ndarray, k: int = 1) -> float | None:
        """Returns the mean share of relevant documents among the first ``k`` by scores (n, m)."""
        if self.relevant is None:
            return None
        first = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return float(
            np.mean([len(r & set(row)) / len(r) for r, row in zip(self.relevant, first.tolist(), strict=True)])
        )

    def calibration_error(self, probabilities: np.ndarray, pairs: np.ndarray) -> float | None:
        """Returns the error of the probabilities (n, m) at some pairs."""
        if self.relevant is None:
            return None
        labels = np.array([d in self.relevant[q] for q, d in pairs.tolist()])
        return calibration_error(probabilities[tuple(pairs.T)], labels)
