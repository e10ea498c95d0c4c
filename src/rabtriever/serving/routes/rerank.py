"""POST /v1/rerank and /v2/rerank (Cohere, Jina) and /rerank (Text Embeddings Inference)."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends

from rabtriever.serving.routes import error_responses, get_service
from rabtriever.serving.schemas.compat import (
    RerankedText,
    RerankRequest,
    RerankResponse,
    RerankResult,
    TEIErrorResponse,
    TEIRequest,
    TEIResult,
    Usage,
)
from rabtriever.serving.service import SearchService

router = APIRouter(tags=["rerank"])


@router.post("/v1/rerank", response_model_exclude_none=True, responses=error_responses(415, 422))
async def rerank_v1(body: RerankRequest, service: Annotated[SearchService, Depends(get_service)]) -> RerankResponse:
    """Scores the documents of the request."""
    return await _rerank(body, service, "1")


@router.post("/v2/rerank", response_model_exclude_none=True, responses=error_responses(415, 422))
async def rerank_v2(body: RerankRequest, service: Annotated[SearchService, Depends(get_service)]) -> RerankResponse:
    """Scores the documents of the request."""
    return await _rerank(body, service, "2")


@router.post("/rerank", responses=error_responses(415, 422, model=TEIErrorResponse))
async def rerank_tei(body: TEIRequest, service: Annotated[SearchService, Depends(get_service)]) -> list[TEIResult]:
    """Scores the texts of the request."""
    scored = await service.score(body.query, body.texts, body.model)
    results = []
    for row in scored.ranking:
        index = int(row["corpus_id"])
        score = float(scored.log_odds[index]) if body.raw_scores else row["score"]
        results.append(TEIResult(index=index, score=score, text=body.texts[index] if body.return_text else None))
    return results


async def _rerank(body: RerankRequest, service: SearchService, version: str) -> RerankResponse:
    texts = body.contents()
    scored = await service.score(body.query, texts, body.model, body.max_tokens_per_doc or 0)
    results = [
        RerankResult(
            index=int(row["corpus_id"]),
            relevance_score=row["score"],
            log_odds=float(scored.log_odds[int(row["corpus_id"])]),
            document=RerankedText(text=texts[int(row["corpus_id"])]) if body.return_documents else None,
        )
        for row in scored.ranking[: body.top_n or None]
    ]
    meta = {
        "api_version": {"version": version},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": scored.tokens, "output_tokens": 0},
    }
    usage = Usage(prompt_tokens=scored.tokens, total_tokens=scored.tokens)
    return RerankResponse(id=str(uuid.uuid4()), model=body.model, results=results, usage=usage, meta=meta)
