"""GET /health, /ready, /info, /metrics, and the page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from rabtriever import __version__
from rabtriever.serving.routes import Service, error_responses
from rabtriever.serving.schemas.native import MAX_HITS, MAX_QUERIES, MAX_TEXTS

router = APIRouter(tags=["status"])
public_router = APIRouter(tags=["status"])  # needs no key
PAGE = Path(__file__).parents[1] / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Page(StaticFiles):
    """The page's files."""

    def file_response(self, *args: Any, **options: Any) -> Response:  # noqa: ANN401
        """Returns a file with the page's headers."""
        response = super().file_response(*args, **options)
        response.headers.update(HEADERS)
        return response


@public_router.get("/health", responses=error_responses())
async def health() -> dict[str, str]:
    """Answers as soon as the process listens."""
    return {"status": "ok"}


@public_router.get("/ready", responses=error_responses())
async def ready(service: Service) -> dict[str, str]:
    """Answers 503 until the model is loaded."""
    return {"status": "ready"}


@router.get("/info", responses=error_responses())
async def info(service: Service) -> dict[str, Any]:
    """Returns the model, its prompt and choices, limits, and the size and version of the index."""
    retriever, encoder = service.retriever, service.retriever.encoder
    described: dict[str, Any] = retriever.reranker.describe() if retriever.reranker else {}
    return {
        "version": __version__,
        "model": {
            "name": Path(retriever.name_or_path).name if retriever.name_or_path else None,
            "encoder": encoder.describe(),
            "llm": described.get("name"),
            "fingerprint": retriever.fingerprint,
            "predictor": retriever.predictor.kind if retriever.predictor else None,
            "dimensions": retriever.dim,
            "backend": described.get("backend"),
            "modes": service.modes(),
            "scorers": ["retriever", "reranker"] if retriever.reranker else ["retriever"],
            "embeddings": ["rabtriever-query", "rabtriever-document"],
        },
        "prompt": {
            "hash": described.get("prompt_hash"),
            "document_tokens": encoder.max_tokens("document"),
            "query_tokens": encoder.max_tokens("query"),
            "choices": described.get("choices"),
        },
        "limits": {**asdict(service.limits), "queries": MAX_QUERIES, "hits": MAX_HITS, "texts": MAX_TEXTS},
        "index": await service.index_info(),
    }


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **error_responses()}, response_model=None)
async def metrics(request: Request) -> PlainTextResponse:
    """Returns counters and histograms in Prometheus's exposition format."""
    return PlainTextResponse(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


@public_router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Returns the page."""
    return FileResponse(PAGE / "index.html", headers=HEADERS)
