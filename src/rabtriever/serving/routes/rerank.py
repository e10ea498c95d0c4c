"""POST /v1/rerank and /v2/rerank (Cohere, Jina) and /rerank (Text Embeddings Inference)."""

from __future__ import annotations

import uuid
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends

from rabtriever.serving.routes import get_service, refusals
from rabtriever.serving.schemas import (
    RerankedText,
    RerankRequest,
    RerankResponse,
    RerankResult,
    TeiProblem,
    TeiRequest,
    TeiResult,
    Usage,
)
from rabtriever.serving.service import SearchService

router = APIRouter(tags=["rerank"])


@router.post("/v1/rerank", response_model_exclude_none=True, responses=refusals(415, 422))
async def rerank_v1(body: RerankRequest, engine: Annotated[SearchService, Depends(get_service)]) -> RerankResponse:
    """Judge the documents of the request."""
    return await _rerank(body, engine, "1")


@router.post("/v2/rerank", response_model_exclude_none=True, responses=refusals(415, 422))
async def rerank_v2(body: RerankRequest, engine: Annotated[SearchService, Depends(get_service)]) -> RerankResponse:
    """Judge the documents of the request."""
    return await _rerank(body, engine, "2")


@router.post("/rerank", responses=refusals(415, 422, model=TeiProblem))
async def rerank_tei(body: TeiRequest, engine: Annotated[SearchService, Depends(get_service)]) -> list[TeiResult]:
    """Judge the texts of the request."""
    log_odds, probabilities, _ = await engine.score(body.query, body.texts, body.model == "reranker")
    scores = log_odds if body.raw_scores else probabilities
    return [
        TeiResult(index=i, score=float(scores[i]), text=body.texts[i] if body.return_text else None)
        for i in best(log_odds)
    ]


async def _rerank(body: RerankRequest, engine: SearchService, version: str) -> RerankResponse:
    texts = body.contents()
    most = body.max_tokens_per_doc or 0
    log_odds, probabilities, tokens = await engine.score(body.query, texts, body.model == "reranker", most)
    results = [
        RerankResult(
            index=i,
            relevance_score=float(probabilities[i]),
            log_odds=float(log_odds[i]),
            document=RerankedText(text=texts[i]) if body.return_documents else None,
        )
        for i in best(log_odds)[: body.top_n or None]
    ]
    meta = {
        "api_version": {"version": version},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": tokens, "output_tokens": 0},
    }
    usage = Usage(prompt_tokens=tokens, total_tokens=tokens)
    return RerankResponse(id=str(uuid.uuid4()), model=body.model, results=results, usage=usage, meta=meta)


def best(log_odds: np.ndarray) -> list[int]:
    """ConcurrencyLimiter, the highest first; ties as they came."""
    order: list[int] = np.argsort(-log_odds, kind="stable").tolist()
    return order
