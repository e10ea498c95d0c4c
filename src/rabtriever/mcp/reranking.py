"""Searches an index, with the retriever's reranker or, if that fails, without it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rabtriever.errors import first_line

if TYPE_CHECKING:
    from rabtriever.index import Index
    from rabtriever.index.hits import Hits

logger = logging.getLogger("rabtriever.mcp")


def search_index(index: Index, request: str, k: int, rerank: int | None) -> Hits:
    """Returns ``k`` hits at most, of which the reranker has read the best ``rerank``; None: no reranker.

    Raises:
        InputError: the request cannot be searched for, with or without the reranker.
    """
    try:
        return index.search(request, k, rerank=rerank)
    except Exception as error:
        if rerank is None:
            raise
        hits = index.search(request, k)  # fails, too, if the fault is the request's
        logger.warning("the reranker failed, this search goes without it (%s)", first_line(error))
        return hits
