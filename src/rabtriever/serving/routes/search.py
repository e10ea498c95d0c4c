"""POST /v1/search."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from rabtriever.index import Hit
from rabtriever.serving.engine import Engine
from rabtriever.serving.refusals import Refusal
from rabtriever.serving.routes import engine_of, refusals
from rabtriever.serving.schemas import SearchHit, SearchRequest, SearchResponse, Timings

router = APIRouter(tags=["search"])


@router.post("/v1/search", response_model_exclude_none=True, responses=refusals(422))
async def search(body: SearchRequest, engine: Annotated[Engine, Depends(engine_of)]) -> SearchResponse:
    """The best documents of the index for a query, or for each of several."""
    limits, several = engine.limits, body.queries is not None
    texts = body.queries or [body.query or ""]
    if len(texts) > limits.queries:
        raise Refusal(422, f"queries: {len(texts)}; at most {limits.queries}", "queries")
    for name, value in (("k", body.k), ("rerank", body.rerank)):
        if value is not None and value > limits.hits:
            raise Refusal(422, f"{name}: {value}; at most {limits.hits}", name)
    found = await engine.search(texts, body.k, body.where, body.mode, body.hybrid, body.rerank)
    results = [[_shown(hit) for hit in hits if hit.probability >= (body.threshold or 0)] for hits in found.hits]
    timings = Timings(**{stage: round(value, 3) for stage, value in found.milliseconds.items()})
    if several:
        return SearchResponse(results=results, timings=timings, truncated=found.queries.cut)
    return SearchResponse(hits=results[0], timings=timings, truncated=found.queries.cut)


def _shown(hit: Hit) -> SearchHit:
    return SearchHit.model_construct(**vars(hit))
