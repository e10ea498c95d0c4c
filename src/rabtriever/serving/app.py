"""The application: routes, middleware and error handlers around a service that is loaded in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from rabtriever import __version__
from rabtriever.errors import InputError, first_line
from rabtriever.index import Index
from rabtriever.index.table import Table
from rabtriever.retriever import Rabtriever
from rabtriever.serving.auth import APIKeys
from rabtriever.serving.config import ServerConfig
from rabtriever.serving.errors import APIError, answer_error
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.middleware import RequestMiddleware
from rabtriever.serving.routes import compat, native, status
from rabtriever.serving.service import SearchService

DOCUMENT_CACHE_SIZE = 100_000  # documents
KV_CACHE_BYTES = 2**28
logger = logging.getLogger("rabtriever.serving")


def make_app(config: ServerConfig, failed: Callable[[str], None], index: Index | None = None) -> ASGIApp:
    """Builds the server's application.

    Args:
        config: The server's options.
        failed: Called if the index or its model cannot be loaded, with the reason.
        index: Already open, so that the server starts when it is warm; if None, it is opened in the background then.

    Raises:
        InputError: keys that cannot be read.
    """
    metrics = Metrics()

    def load() -> SearchService:
        service = SearchService(index or open_index(config), config.limits, metrics, config.feedback)
        service.warm()
        return service

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def get_ready() -> None:
            try:
                app.state.service = await asyncio.to_thread(load)
                logger.info("ready")
            except Exception as error:
                failed(str(error) if isinstance(error, InputError) else f"cannot be loaded: {first_line(error)}")

        loading = asyncio.create_task(get_ready())
        if index is not None:
            await loading
        yield
        service, app.state.service = app.state.service, None
        loading.cancel()
        if service:
            await asyncio.to_thread(service.close)

    summary = "Search by an LLM reranker's judgement."
    app = FastAPIOffline(redoc_url=None, title="Rabtriever", version=__version__, summary=summary, lifespan=lifespan)
    app.state.service, app.state.metrics = None, metrics
    keys = APIKeys(config.keys)
    secured = [Security(HTTPBearer(auto_error=False))] if keys else []  # for the documentation; the middleware checks
    for part in (native, compat, status):
        app.include_router(part.router, dependencies=secured)
    app.include_router(status.public_router)
    app.mount("/page", status.Page(directory=status.PAGE), name="page")
    for kind in (APIError, InputError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer_error)
    wrapped: ASGIApp = RequestMiddleware(app, config, keys, metrics)
    if config.cors:
        methods = ["GET", "POST", "DELETE"]
        wrapped = CORSMiddleware(wrapped, allow_origins=config.cors, allow_methods=methods, allow_headers=["*"])
    return wrapped


def open_index(config: ServerConfig) -> Index:
    """Opens the index and loads its retriever.

    Raises:
        InputError: as :meth:`Index.open` and :meth:`Rabtriever.from_pretrained`.
    """
    return Index.open(config.uri, load_retriever(config))


def load_retriever(config: ServerConfig) -> Rabtriever:
    """Loads the index's retriever, with caches of a server's size; raises InputError if it cannot be."""
    return Rabtriever.from_pretrained(
        config.model or Table.open(config.uri).model_source(),
        document_cache=DOCUMENT_CACHE_SIZE,
        kv_cache_bytes=KV_CACHE_BYTES,
        **config.load_options,
    )
