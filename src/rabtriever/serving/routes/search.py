"""POST /v1/search."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from rabtriever.index import Hit
from rabtriever.serving.routes import get_service, refusals
from rabtriever.serving.schemas import SearchHit, SearchRequest, SearchResponse, Timings
from rabtriever.serving.service import SearchService

router = APIRouter(tags=["search"])


@router.post("/v1/search", response_model_exclude_none=True, responses=refusals(415, 422))
async def search(body: SearchRequest, engine: Annotated[SearchService, Depends(get_service)]) -> SearchResponse:
    """The best documents of the index for a query, or for each of several."""
    texts = body.queries or [body.query or ""]
    found = await engine.search(texts, body.k, body.where, body.mode, body.hybrid, body.rerank)
    results = [[_shown(hit) for hit in hits if hit.probability >= (body.threshold or 0)] for hits in found.hits]
    timings = Timings(**{stage: round(value, 3) for stage, value in found.milliseconds.items()})
    if body.queries is not None:
        return SearchResponse(results=results, timings=timings, truncated=found.queries.cut)
    return SearchResponse(hits=results[0], timings=timings, truncated=found.queries.cut)


def _shown(hit: Hit) -> SearchHit:
    return SearchHit.model_construct(**vars(hit))
