"""POST /v1/embeddings (OpenAI)."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Depends

from rabtriever.serving.routes import get_service, refusals
from rabtriever.serving.schemas import Embedding, EmbeddingsRequest, EmbeddingsResponse, Usage
from rabtriever.serving.service import SearchService

router = APIRouter(tags=["embeddings"])


@router.post("/v1/embeddings", responses=refusals(415, 422))
async def embeddings(
    body: EmbeddingsRequest, engine: Annotated[SearchService, Depends(get_service)]
) -> EmbeddingsResponse:
    """What the retriever keeps of queries or documents.

    The model's name tells which side the texts are. The two sides meet in the retriever's folded score, which is an
    inner product for `quadratic` predictors alone: for others, cosines of these vectors mean little.
    """
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors, sizes = await engine.embed(body.model.removeprefix("rabtriever-"), texts)
    data = [
        Embedding(
            index=i,
            embedding=row.tolist() if body.encoding_format == "float" else base64.b64encode(row.tobytes()).decode(),
        )
        for i, row in enumerate(vectors.astype("<f4"))
    ]
    tokens = sum(sizes.kept)
    return EmbeddingsResponse(data=data, model=body.model, usage=Usage(prompt_tokens=tokens, total_tokens=tokens))
