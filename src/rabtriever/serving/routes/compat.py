"""Other services' routes: /v1/rerank, /v2/rerank (Cohere, Jina), /rerank (TEI) and /v1/embeddings (OpenAI)."""

from __future__ import annotations

import base64
import uuid

from fastapi import APIRouter, Request

from rabtriever.serving.models import Kind
from rabtriever.serving.routes import Service, error_responses
from rabtriever.serving.schemas import compat as schemas

router = APIRouter()


@router.post("/v1/rerank", tags=["rerank"], response_model_exclude_none=True, responses=error_responses(415, 422))
@router.post("/v2/rerank", tags=["rerank"], response_model_exclude_none=True, responses=error_responses(415, 422))
async def rerank(request: Request, body: schemas.RerankRequest, service: Service) -> schemas.RerankResponse:
    """Scores the documents of the request."""
    texts = body.contents()
    scored, tokens = await service.score(body.query, texts, body.model, body.max_tokens_per_doc or 0)
    results = [
        schemas.RerankResult(
            index=row.position,
            relevance_score=row.probability,
            log_odds=row.log_odds,
            document={"text": texts[row.position]} if body.return_documents else None,
        )
        for row in scored[: body.top_n or None]
    ]
    meta = {
        "api_version": {"version": request.scope["route"].path[2]},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": tokens, "output_tokens": 0},
    }
    usage = schemas.Usage.of(tokens)
    return schemas.RerankResponse(id=str(uuid.uuid4()), model=body.model, results=results, usage=usage, meta=meta)


@router.post("/rerank", tags=["rerank"], responses=error_responses(415, 422, model=schemas.TEIErrorResponse))
async def rerank_tei(body: schemas.TEIRequest, service: Service) -> list[schemas.TEIResult]:
    """Scores the texts of the request."""
    scored, _ = await service.score(body.query, body.texts, body.model)
    return [
        schemas.TEIResult(
            index=row.position,
            score=row.log_odds if body.raw_scores else row.probability,
            text=body.texts[row.position] if body.return_text else None,
        )
        for row in scored
    ]


@router.post("/v1/embeddings", tags=["embeddings"], responses=error_responses(415, 422))
async def embeddings(body: schemas.EmbeddingsRequest, service: Service) -> schemas.EmbeddingsResponse:
    """Returns the retriever's latents of queries or documents.

    The model's name says which kind the texts are. The retriever's score of a query's and a document's latent is an
    inner product for `quadratic` predictors alone: for others, cosines of these vectors mean little.
    """
    kind: Kind = "query" if body.model == "rabtriever-query" else "document"
    vectors, tokens = await service.embed(kind, [body.input] if isinstance(body.input, str) else body.input)
    data = []
    for index, row in enumerate(vectors.astype("<f4")):
        coded = row.tolist() if body.encoding_format == "float" else base64.b64encode(row.tobytes()).decode()
        data.append(schemas.Embedding(index=index, embedding=coded))
    return schemas.EmbeddingsResponse(data=data, model=body.model, usage=schemas.Usage.of(tokens))
