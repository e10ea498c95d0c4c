"""POST /v1/search."""

from __future__ import annotations

from fastapi import APIRouter

from rabtriever.index.search import SearchOptions
from rabtriever.serving.routes import Service, error_responses
from rabtriever.serving.schemas.native import SearchHit, SearchRequest, SearchResponse, Timings

router = APIRouter(tags=["search"])


@router.post("/v1/search", response_model_exclude_none=True, responses=error_responses(415, 422))
async def search(body: SearchRequest, service: Service) -> SearchResponse:
    """Finds the best documents of the index for a query, or for each of several."""
    options = SearchOptions(body.k, body.where, body.mode, body.rerank, body.threshold)
    result = await service.search(body.queries or [body.query or ""], options)
    found = [[SearchHit.model_construct(**vars(hit)) for hit in hits] for hits in result.hits]
    return SearchResponse(
        hits=found[0] if body.queries is None else None,
        results=None if body.queries is None else found,
        timings=Timings(**{stage: round(value, 3) for stage, value in result.milliseconds.items()}),
        truncated=result.counts.truncated,
    )
