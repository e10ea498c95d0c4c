"""GET /health, /ready, /info, /metrics, and the page."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from rabtriever import __version__
from rabtriever.serving.routes import get_service, refusals
from rabtriever.serving.schemas import HITS, QUERIES, TEXTS
from rabtriever.serving.service import SearchService

router = APIRouter(tags=["status"])
open_router = APIRouter(tags=["status"])  # needs no key
PAGE = Path(str(files("rabtriever.serving"))) / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Page(StaticFiles):
    """The page's files."""

    def file_response(self, *args: Any, **options: Any) -> Response:  # noqa: ANN401
        """With the page's headers."""
        response = super().file_response(*args, **options)
        response.headers.update(HEADERS)
        return response


@open_router.get("/health", responses=refusals())
async def health() -> dict[str, str]:
    """Whether the process lives."""
    return {"status": "ok"}


@open_router.get("/ready", responses=refusals())
async def ready(engine: Annotated[SearchService, Depends(get_service)]) -> dict[str, str]:
    """Whether it can answer: 503 while the model is loaded."""
    return {"status": "ready"}


@router.get("/info", responses=refusals())
async def info(engine: Annotated[SearchService, Depends(get_service)]) -> dict[str, Any]:
    """The model, its prompt and choices, limits, and the index."""
    retriever, teacher, index = engine.retriever, engine.teacher, engine.index
    template = teacher.template.to_dict()
    choices = zip(("yes", "no"), teacher.prompt.choice_ids, strict=True)
    return {
        "version": __version__,
        "model": {
            "name": Path(retriever.source).name if retriever.source else None,
            "llm": Path(teacher.llm.source).name,
            "fingerprint": retriever.fingerprint,
            "predictor": retriever.predictor.kind,
            "dimensions": retriever.dim,
            "backend": teacher.llm.backend,
            "scorers": ["retriever", "reranker"],
            "embeddings": ["rabtriever-query", "rabtriever-document"],
        },
        "prompt": {
            "hash": hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest(),
            "document_tokens": template["document_tokens"],
            "query_tokens": template["query_tokens"],
            "choices": {
                name: {"id": token, "text": teacher.prompt.tokenizer.decode([token])} for name, token in choices
            },
        },
        "limits": {**asdict(engine.limits), "queries": QUERIES, "hits": HITS, "texts": TEXTS},
        "index": {"documents": await engine.count(), "version": index.store.version},
    }


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **refusals()}, response_model=None)
async def metrics(request: Request) -> PlainTextResponse:
    """Prometheus's exposition format."""
    text = request.app.state.metrics.text()
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


@open_router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page() -> FileResponse:
    """The page."""
    return FileResponse(PAGE / "index.html", headers=HEADERS)
