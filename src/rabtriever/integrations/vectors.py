"""Vectors for any vector database: the inner product of a query's and a document's is their log-odds.

    query      [a_1 ... a_n, a_gain, 1, a_bias]        document      [b_1 ... b_n, b_gain, b_bias, 1]

a and b are the latents of :class:`rabtriever.scoring.layout.ScoreLayout` without ReLU columns. Choose the inner product
as the database's metric (FAISS ``IndexFlatIP``, Qdrant ``DOT``, LanceDB ``dot``, pgvector ``<#>``), never the cosine.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rabtriever.errors import InputError
from rabtriever.retriever import Rabtriever

EXTRA = 3  # columns besides the products: gain, and one for each side's bias


def query_vectors(retriever: Rabtriever, texts: Iterable[str], show_progress_bar: bool = False) -> np.ndarray:
    """Returns the vectors float32 (n, dim) of queries.

    Args:
        retriever: One without a predictor, or with one of kind ``quadratic``.
        texts: The queries.
        show_progress_bar: Whether to show progress on stderr.

    Raises:
        InputError: the retriever's score is no inner product.
        TextError: a query that cannot be encoded.
    """
    require_inner_product(retriever)
    latents = retriever.encode_query(list(texts), show_progress_bar=show_progress_bar)
    return _join(retriever, latents, latents[:, -2], np.ones(len(latents)), latents[:, -1])


def document_vectors(retriever: Rabtriever, texts: Iterable[str], show_progress_bar: bool = False) -> np.ndarray:
    """Returns the vectors float32 (n, dim) of documents; arguments and errors as in :func:`query_vectors`."""
    require_inner_product(retriever)
    latents = retriever.encode_document(list(texts), show_progress_bar=show_progress_bar)
    return _join(retriever, latents, latents[:, -2], latents[:, -1], np.ones(len(latents)))


def require_inner_product(retriever: Rabtriever) -> None:
    """Raises InputError if the retriever's score is no inner product."""
    if retriever.layout.n_relu and retriever.correction:
        name = retriever.name_or_path or "retriever"
        raise InputError(f"{name}: its mlp is no inner product; distill with --predictor quadratic for one that is")


def _join(retriever: Rabtriever, latents: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    inner = latents[:, : retriever.layout.n_inner]
    return np.concatenate([inner, np.stack(columns, axis=1)], axis=1, dtype=np.float32)
