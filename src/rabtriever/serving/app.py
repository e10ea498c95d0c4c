"""The application: routes, and what is around them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from rabtriever import __version__
from rabtriever.errors import InputError, first_line
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever
from rabtriever.serving.auth import APIKeys
from rabtriever.serving.config import ServerConfig
from rabtriever.serving.errors import APIError, first_fault
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.middleware import RequestMiddleware
from rabtriever.serving.routes import documents, embeddings, rerank, search, status
from rabtriever.serving.service import SearchService

SETTINGS = "RABTRIEVER_SERVE"  # in the environment of worker processes
FAILED = "failed.txt"  # where a worker process leaves the reason, for its parent
LOGGING: dict[str, Any] = {"level": logging.INFO, "format": "%(asctime)s %(message)s"}
logger = logging.getLogger("rabtriever.serving")


def make_app(settings: ServerConfig, failed: Callable[[str], None], index: Index | None = None) -> ASGIApp:
    """The server's application.

    Args:
        settings: How it was started.
        failed: Called if the index or its model cannot be loaded, with the reason.
        index: Already open; opened in the background, when the server starts, if None.

    Raises:
        InputError: keys that cannot be read.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        def load() -> SearchService:
            engine = SearchService(index or open_index(settings), settings.limits, metrics)
            engine.warm()
            return engine

        async def get_ready() -> None:
            try:
                app.state.engine = await asyncio.to_thread(load)
                logger.info("ready")
            except Exception as error:
                failed(str(error) if isinstance(error, InputError) else f"cannot be loaded: {first_line(error)}")

        loading = asyncio.create_task(get_ready())
        yield
        engine, app.state.engine = app.state.engine, None
        loading.cancel()
        if engine:
            await asyncio.to_thread(engine.close)

    app = FastAPIOffline(
        redoc_url=None,
        title="Rabtriever",
        version=__version__,
        summary="Search by an LLM reranker's judgement.",
        lifespan=lifespan,
    )
    app.state.engine, app.state.metrics = None, metrics
    keys = APIKeys.load(settings.keys)
    secured = [Security(HTTPBearer(auto_error=False))] if keys else []  # told in the documentation; the guard asks
    for part in (search, rerank, documents, embeddings, status):
        app.include_router(part.router, dependencies=secured)
    app.include_router(status.open_router)
    app.mount("/page", status.Page(directory=status.PAGE), name="page")
    app.add_exception_handler(APIError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _fault)
    guarded: ASGIApp = RequestMiddleware(app, settings, keys, metrics)
    if settings.cors:
        guarded = CORSMiddleware(
            guarded, allow_origins=settings.cors, allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"]
        )
    return guarded


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, APIError)
    return refusal.response(request.scope["path"])


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json" and not request.scope["rabtriever.upload"]:
        return await _refused(request, APIError(415, "send application/json"))
    param, message = first_fault(error.errors())
    return await _refused(request, APIError(422, f"{param}: {message}", param))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # what FastAPI says of a body that Python's parser gives up on
        return await _refused(request, APIError(422, "body: no JSON that can be read", "body"))
    headers = dict(error.headers or {})
    path = getattr(request.scope.get("route"), "path_format", None)
    if error.status_code == 405 and path in request.app.openapi()["paths"]:  # Starlette tells the first route's alone
        headers["Allow"] = ", ".join(method.upper() for method in request.app.openapi()["paths"][path])
    return await _refused(request, APIError(error.status_code, str(error.detail), headers=headers))


async def _fault(request: Request, error: Exception) -> Response:
    return await _refused(request, APIError(500, "something went wrong here; the log knows more"))


def worker_app() -> ASGIApp:
    """The application of a worker process, whose settings its parent left in the environment."""
    logging.basicConfig(**LOGGING)

    def failed(reason: str) -> None:
        (Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / FAILED).write_text(reason, encoding="utf-8")
        os.kill(os.getppid(), signal.SIGTERM)  # it would start others for ever

    return make_app(ServerConfig.from_json(os.environ[SETTINGS]), failed)


def open_index(settings: ServerConfig) -> Index:
    """The index and its model.

    Raises:
        InputError: as :meth:`Index.open`.
    """
    retriever = Rabtriever.from_pretrained(settings.model) if settings.model else None
    return Index.open(settings.uri, retriever)
