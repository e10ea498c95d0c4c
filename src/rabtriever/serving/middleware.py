"""Checks of every request: API key, size, time, and whether its client still waits."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from time import perf_counter
from typing import IO

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rabtriever.serving.auth import APIKeys
from rabtriever.serving.config import ServerConfig
from rabtriever.serving.errors import APIError, content_type, log_fault, route_of
from rabtriever.serving.listening import is_loopback
from rabtriever.serving.metrics import Metrics

logger = logging.getLogger("rabtriever.serving")

PUBLIC_PATHS = ("/", "/health", "/ready", "/docs", "/openapi.json")  # need no API key, and take no body
PUBLIC_PREFIXES = ("/page/", "/static-offline-docs/", "/docs/")
WRITE_PREFIX = "/v1/documents"
UPLOAD_TYPE = "application/x-ndjson"
MAX_MEMORY_BYTES, CHUNK_BYTES = 2**20, 2**16  # of a body: held in memory, passed on at a time
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
STATUS_CLIENT_CLOSED = 499  # nginx's


class ClientDisconnected(Exception):  # noqa: N818
    """The client no longer waits for an answer."""


class RequestMiddleware:
    """An ASGI middleware around the whole application.

    A body is received completely before anything begins, a large one to disk, so that a slow client delays nobody.
    Without keys, everyone may read and write.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig, keys: APIKeys, metrics: Metrics) -> None:
        self.app, self.config, self.keys, self.metrics = app, config, keys, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        method = scope["method"]
        if method == "HEAD":  # answered as GET; the listening server leaves the body out
            scope = {**scope, "method": "GET"}
        started, status, complete = perf_counter(), 0, False

        async def observed_send(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            self._authorize(scope)
            with tempfile.SpooledTemporaryFile(MAX_MEMORY_BYTES) as body:
                await self._receive(scope, receive, body)
                await self._answer(scope, receive, observed_send)
        except ClientDisconnected:
            status = status if complete else STATUS_CLIENT_CLOSED
        except Exception as error:  # the client gets no trace
            if not isinstance(error, APIError):
                log_fault(scope, error)
            if not status:
                await APIError.of(error).response(scope["path"])(scope, receive, observed_send)
        finally:
            self._log_request(scope, method, status, perf_counter() - started)

    def _authorize(self, scope: Scope) -> None:
        """Raises an APIError, 401, 403 or 421, if this client may not make the request."""
        path, headers = scope["path"], Headers(scope=scope)
        if self.config.loopback and not self.config.insecure and not self.keys:
            # A page of another site, its name pointed at this machine, must not get in.
            if not is_loopback(re.sub(r":\d*$", "", headers.get("host", "localhost"))):
                raise APIError(421, "addressed to another host; without API keys only localhost is served")
        if not self.keys or _is_public(path):
            return
        roles = self.keys.roles(headers.get("authorization", ""))
        if not roles:
            raise APIError(401, "no valid API key; send `Authorization: Bearer KEY`")
        if scope["method"] not in ("GET", "OPTIONS") and path.startswith(WRITE_PREFIX) and "write" not in roles:
            raise APIError(403, "this API key may read, not write")

    async def _receive(self, scope: Scope, receive: Receive, body: IO[bytes]) -> None:
        """Receives the body; raises an APIError, 408 or 413, if it is too slow or too large."""
        headers, limits, path = Headers(scope=scope), self.config.limits, scope["path"]
        upload = content_type(headers) == UPLOAD_TYPE and path.startswith(WRITE_PREFIX)
        megabytes = 0 if _is_public(path) else limits.upload_mb if upload else limits.body_mb
        size, more, end = int(headers.get("content-length", 0)), True, perf_counter() + limits.timeout
        too_large = APIError(413, f"more than {megabytes} MB; send less at a time")
        if size > megabytes * 2**20:
            raise too_large
        while more:
            try:
                message = await asyncio.wait_for(receive(), limits.timeout if upload else end - perf_counter())
            except TimeoutError:
                raise APIError(408, f"the request did not come within {limits.timeout:g} s") from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            body.write(message.get("body", b""))
            more = message.get("more_body", False)
            if body.tell() > megabytes * 2**20:
                raise too_large
        body.seek(0)
        scope["rabtriever.body"], scope["rabtriever.upload"] = body, upload

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets the application answer as long as the client waits; raises an APIError, 504, after the timeout."""
        timeout = None if scope["rabtriever.upload"] else self.config.limits.timeout
        over, ended = asyncio.Event(), False

        async def replay() -> Message:
            nonlocal ended
            if ended:
                await over.wait()
                return {"type": "http.disconnect"}
            piece = scope["rabtriever.body"].read(CHUNK_BYTES)
            ended = len(piece) < CHUNK_BYTES
            return {"type": "http.request", "body": piece, "more_body": not ended}

        answer = asyncio.ensure_future(self.app(scope, replay, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({answer, gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                answer.cancel()
                await asyncio.wait({answer})
                if gone.done():
                    raise ClientDisconnected
                if answer.cancelled():  # else a write that had begun
                    raise APIError(504, f"not done within {timeout:g} s; ask for less at a time")
            answer.result()
        finally:
            over.set()
            for task in (answer, gone):
                task.cancel()

    def _log_request(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route, method = route_of(scope), method if method in METHODS else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        logger.info("%s %s %d %.1f ms", method, route, status, 1000 * seconds)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)
