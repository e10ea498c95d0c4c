"""POST /v1/embeddings (OpenAI)."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Depends

from rabtriever.serving.models import Kind
from rabtriever.serving.routes import error_responses, get_service
from rabtriever.serving.schemas.compat import Embedding, EmbeddingsRequest, EmbeddingsResponse, Usage
from rabtriever.serving.service import SearchService

router = APIRouter(tags=["embeddings"])


@router.post("/v1/embeddings", responses=error_responses(415, 422))
async def embeddings(
    body: EmbeddingsRequest, service: Annotated[SearchService, Depends(get_service)]
) -> EmbeddingsResponse:
    """Returns the retriever's latents of queries or documents.

    The model's name says which kind the texts are. The retriever's score of a query's and a document's latent is an
    inner product for `quadratic` predictors alone: for others, cosines of these vectors mean little.
    """
    texts = [body.input] if isinstance(body.input, str) else body.input
    kind: Kind = "query" if body.model == "rabtriever-query" else "document"
    vectors, counts = await service.embed(kind, texts)
    data = [
        Embedding(
            index=i,
            embedding=row.tolist() if body.encoding_format == "float" else base64.b64encode(row.tobytes()).decode(),
        )
        for i, row in enumerate(vectors.astype("<f4"))
    ]
    tokens = sum(counts.used)
    return EmbeddingsResponse(data=data, model=body.model, usage=Usage(prompt_tokens=tokens, total_tokens=tokens))
