"""The application: routes, middleware and error handlers around a service that is loaded in the background."""

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
from rabtriever.index.table import Table
from rabtriever.retriever import Rabtriever
from rabtriever.serving.auth import APIKeys
from rabtriever.serving.config import ServerConfig
from rabtriever.serving.errors import APIError, first_validation_error
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.middleware import RequestMiddleware, log_fault
from rabtriever.serving.routes import documents, embeddings, rerank, search, status
from rabtriever.serving.service import SearchService

CONFIG = "RABTRIEVER_SERVER_CONFIG"  # in the environment of worker processes
FAILED = "failed.txt"  # where a worker process leaves the reason, for its parent
DOCUMENT_CACHE_SIZE = 100_000  # documents
KV_CACHE_BYTES = 2**28
LOGGING: dict[str, Any] = {"level": logging.INFO, "format": "%(asctime)s %(message)s"}
logger = logging.getLogger("rabtriever.serving")


def make_app(config: ServerConfig, failed: Callable[[str], None], index: Index | None = None) -> ASGIApp:
    """Builds the server's application.

    Args:
        config: The server's options.
        failed: Called if the index or its model cannot be loaded, with the reason.
        index: Already open; opened in the background, when the server starts, if None.

    Raises:
        InputError: keys that cannot be read.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        def load() -> SearchService:
            service = SearchService(index or open_index(config), config.limits, metrics)
            service.warm()
            return service

        async def get_ready() -> None:
            try:
                app.state.service = await asyncio.to_thread(load)
                logger.info("ready")
            except Exception as error:
                failed(str(error) if isinstance(error, InputError) else f"cannot be loaded: {first_line(error)}")

        loading = asyncio.create_task(get_ready())
        yield
        service, app.state.service = app.state.service, None
        loading.cancel()
        if service:
            await asyncio.to_thread(service.close)

    app = FastAPIOffline(
        redoc_url=None,
        title="Rabtriever",
        version=__version__,
        summary="Search by an LLM reranker's judgement.",
        lifespan=lifespan,
    )
    app.state.service, app.state.metrics = None, metrics
    keys = APIKeys.load(config.keys)
    secured = [Security(HTTPBearer(auto_error=False))] if keys else []  # for the documentation; the middleware checks
    for part in (search, rerank, documents, embeddings, status):
        app.include_router(part.router, dependencies=secured)
    app.include_router(status.open_router)
    app.mount("/page", status.Page(directory=status.PAGE), name="page")
    app.add_exception_handler(APIError, _api_error)
    app.add_exception_handler(InputError, _library_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)
    wrapped: ASGIApp = RequestMiddleware(app, config, keys, metrics)
    if config.cors:
        wrapped = CORSMiddleware(
            wrapped, allow_origins=config.cors, allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"]
        )
    return wrapped


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return error.response(request.scope["path"])


async def _library_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, InputError)
    answer = APIError.of(error)
    if answer.status >= 500 and not answer.kind.retry_after:
        log_fault(request.scope, error)
    return await _api_error(request, answer)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json" and not request.scope["rabtriever.upload"]:
        return await _api_error(request, APIError(415, "send application/json"))
    param, message = first_validation_error(error.errors())
    return await _api_error(request, APIError(422, f"{param}: {message}", param))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # FastAPI's for a body that Python's parser gives up on
        return await _api_error(request, APIError(422, "body: no JSON that can be read", "body"))
    headers = dict(error.headers or {})
    path = getattr(request.scope.get("route"), "path_format", None)
    if error.status_code == 405 and path in request.app.openapi()["paths"]:  # Starlette knows only the first route's
        headers["Allow"] = ", ".join(method.upper() for method in request.app.openapi()["paths"][path])
    return await _api_error(request, APIError(error.status_code, str(error.detail), headers=headers))


async def _fault(request: Request, error: Exception) -> Response:
    return await _api_error(request, APIError(500))


def worker_app() -> ASGIApp:
    """Builds the application of a worker process, whose options its parent left in the environment."""
    logging.basicConfig(**LOGGING)

    def failed(reason: str) -> None:
        (Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / FAILED).write_text(reason, encoding="utf-8")
        os.kill(os.getppid(), signal.SIGTERM)  # it would start new workers for ever

    return make_app(ServerConfig.from_json(os.environ[CONFIG]), failed)


def open_index(config: ServerConfig) -> Index:
    """Opens the index and loads its retriever, with caches of a server's size.

    Raises:
        InputError: as :meth:`Index.open` and :meth:`Rabtriever.from_pretrained`.
    """
    retriever = Rabtriever.from_pretrained(
        config.model or Table.open(config.uri).model_folder(),
        document_cache=DOCUMENT_CACHE_SIZE,
        kv_cache_bytes=KV_CACHE_BYTES,
        **config.load_options,
    )
    return Index.open(config.uri, retriever)
