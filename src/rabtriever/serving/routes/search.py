"""POST /v1/search."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from rabtriever.index.search import SearchOptions
from rabtriever.serving.routes import error_responses, get_service
from rabtriever.serving.schemas.native import SearchHit, SearchRequest, SearchResponse, Timings
from rabtriever.serving.service import SearchService

router = APIRouter(tags=["search"])


@router.post("/v1/search", response_model_exclude_none=True, responses=error_responses(415, 422))
async def search(body: SearchRequest, service: Annotated[SearchService, Depends(get_service)]) -> SearchResponse:
    """Finds the best documents of the index for a query, or for each of several."""
    texts = body.queries or [body.query or ""]
    options = SearchOptions(body.k, body.where, body.mode, body.rerank, body.threshold)
    result = await service.search(texts, options)
    found = [[SearchHit.model_construct(**vars(hit)) for hit in hits] for hits in result.hits]
    timings = Timings(**{stage: round(value, 3) for stage, value in result.milliseconds.items()})
    truncated = result.counts.truncated
    if body.queries is not None:
        return SearchResponse(results=found, timings=timings, truncated=truncated)
    return SearchResponse(hits=found[0], timings=timings, truncated=truncated)
