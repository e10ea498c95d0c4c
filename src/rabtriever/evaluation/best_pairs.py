"""The pairs of queries and the documents that are best for them, of an encoder or a retriever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rabtriever.data import RetrievalData
from rabtriever.encoders.base import Encoder
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever

QUERIES_AT_ONCE = 256  # whose similarities to all documents are in memory


def best_by_encoder(
    data: RetrievalData, encoder: Encoder, embeddings: np.ndarray, queries: Sequence[str], depth: int
) -> np.ndarray:
    """Returns the pairs of queries, by id, and their most similar documents.

    Args:
        data: Queries and documents.
        encoder: Encodes the queries.
        embeddings: float32 (m, H) of the documents.
        queries: Ids.
        depth: Documents of each; a query's own document is none.

    Returns:
        int64 (n, 2) of positions in ``data.queries`` and ``data.documents``.
    """
    row_of, column_of = positions(data.queries), positions(data.documents)
    depth, found = min(depth, len(embeddings)), []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        ids = queries[start : start + QUERIES_AT_ONCE]
        similarity = encoder.encode_queries([data.queries[query] for query in ids]) @ embeddings.T
        for row, query in enumerate(ids):
            if data.is_own_document(query, query):
                similarity[row, column_of[query]] = -np.inf
        best = np.argpartition(-similarity, depth - 1, axis=1)[:, :depth]
        rows = np.array([row_of[query] for query in ids]).repeat(depth)
        pairs, kept = np.stack([rows, best.ravel()], axis=1), np.take_along_axis(similarity, best, 1).ravel()
        found.append(pairs[np.isfinite(kept)])
    return np.concatenate(found)


def best_by_retriever(
    data: RetrievalData, retriever: Rabtriever, queries: Sequence[str], depth: int, show_progress_bar: bool = False
) -> np.ndarray:
    """Returns the pairs of queries, by id, and the documents that a retriever finds; see :func:`best_by_encoder`."""
    row_of, column_of = positions(data.queries), positions(data.documents)
    index = Index.build(None, retriever, data.documents.values(), show_progress_bar)
    pairs = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        ids = queries[start : start + QUERIES_AT_ONCE]
        texts = [data.queries[query] for query in ids]
        for query, hits in zip(ids, index.search(texts, k=depth + 1), strict=True):
            found = [hit.id for hit in hits if not data.is_own_document(query, hit.id)][:depth]
            pairs += [(row_of[query], column_of[document]) for document in found]
    return np.array(pairs, np.int64).reshape(-1, 2)


def positions(ids: Iterable[str]) -> dict[str, int]:
    """Returns the position of each id."""
    return {name: i for i, name in enumerate(ids)}
