"""Checks of every request: API key, size, time, and whether its client still waits."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import tempfile
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, BinaryIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rabtriever.serving.auth import APIKeys
from rabtriever.serving.config import ServerConfig
from rabtriever.serving.errors import APIError, location
from rabtriever.serving.metrics import Metrics

logger = logging.getLogger("rabtriever.serving")

PUBLIC_PATHS = ("/", "/health", "/ready", "/docs", "/openapi.json")  # need no API key, and take no body
PUBLIC_PREFIXES = ("/page/", "/static-offline-docs/", "/docs/")
WRITE_PREFIXES = ("/v1/documents",)
UPLOAD_TYPE = b"application/x-ndjson"
MAX_MEMORY_BYTES, CHUNK_BYTES = 2**20, 2**16  # of a body: held in memory, passed on at a time
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
STATUS_CLIENT_CLOSED = 499  # nginx's


class RequestMiddleware:
    """An ASGI middleware around the whole application.

    A body is received completely before anything begins, a large one to disk, so that a slow client delays nobody.

    Args:
        app: The application.
        config: The server's options.
        keys: The API keys; without any, everyone may read and write.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig, keys: APIKeys, metrics: Metrics) -> None:
        self.app, self.config, self.keys, self.metrics = app, config, keys, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, seen = perf_counter(), {"status": 0, "complete": False}

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            await send(message)
            seen["complete"] = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            self._authorize(scope)
            with tempfile.SpooledTemporaryFile(MAX_MEMORY_BYTES) as body:
                await self._receive(scope, receive, body)  # type: ignore[arg-type]
                scope["rabtriever.body"] = body
                await self._run(scope, body, receive, sent)  # type: ignore[arg-type]
        except ClientDisconnected:
            seen["status"] = seen["status"] if seen["complete"] else STATUS_CLIENT_CLOSED
        except APIError as error:
            if not seen["status"]:
                await error.response(scope["path"])(scope, receive, sent)
        except Exception as error:  # the client gets no trace
            log_fault(scope, error)
            if not seen["status"]:
                await APIError(500).response(scope["path"])(scope, receive, sent)
        finally:
            self._log_request(scope, seen["status"], perf_counter() - started)

    def _authorize(self, scope: Scope) -> None:
        """Raises an APIError, 401, 403 or 421, if this client may not make the request."""
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        if self.config.loopback and not self.config.insecure and not self.keys:
            # A page of another site, its name pointed at this machine, must not get in.
            name = headers.get(b"host", b"localhost").decode("latin-1")
            if not is_loopback(name.rsplit(":", 1)[0] if not name.endswith("]") else name):
                raise APIError(421, "addressed to another host; without API keys only localhost is served")
        if not self.keys or path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES):
            return
        roles = self.keys.roles(headers.get(b"authorization", b"").decode("latin-1"))
        if not roles:
            raise APIError(
                401, "no valid API key; send `Authorization: Bearer KEY`", headers={"WWW-Authenticate": "Bearer"}
            )
        if method in ("POST", "PUT", "PATCH", "DELETE") and path.startswith(WRITE_PREFIXES) and "write" not in roles:
            raise APIError(403, "this API key may read, not write")

    async def _receive(self, scope: Scope, receive: Receive, body: BinaryIO) -> None:
        """Receives the body; raises an APIError, 408 or 413, if it is too slow or too large."""
        headers, limits = dict(scope["headers"]), self.config.limits
        upload = headers.get(b"content-type", b"").split(b";")[0].strip().lower() == UPLOAD_TYPE
        upload = upload and scope["path"].startswith(WRITE_PREFIXES)
        most = (limits.upload_mb if upload else limits.body_mb) * 2**20
        if scope["path"] in PUBLIC_PATHS or scope["path"].startswith(PUBLIC_PREFIXES):
            most = 0
        end = perf_counter() + limits.timeout
        declared = headers.get(b"content-length", b"0")
        size, more = int(declared) if declared.isdigit() else 0, True
        if size <= most:
            size = 0
        while more and size <= most:
            try:
                message = await asyncio.wait_for(receive(), limits.timeout if upload else end - perf_counter())
            except TimeoutError:
                raise APIError(408, f"the request did not come within {limits.timeout:g} s") from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            piece = message.get("body", b"")
            size, more = size + len(piece), message.get("more_body", False)
            if size <= most:
                body.write(piece)
        if size > most:
            raise APIError(413, f"more than {most // 2**20} MB; send less at a time", headers={"Connection": "close"})
        scope["rabtriever.upload"] = upload
        body.seek(0)

    async def _run(self, scope: Scope, body: BinaryIO, receive: Receive, send: Send) -> None:
        """Lets the application answer as long as the client waits; raises an APIError, 504, after the timeout."""
        timeout = None if scope["rabtriever.upload"] else self.config.limits.timeout
        over, ended = asyncio.Event(), False

        async def replay() -> Message:
            nonlocal ended
            if ended:
                await over.wait()
                return {"type": "http.disconnect"}
            piece = body.read(CHUNK_BYTES)
            ended = len(piece) < CHUNK_BYTES
            return {"type": "http.request", "body": piece, "more_body": not ended}

        answer = asyncio.ensure_future(_call(self.app(scope, replay, send)))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({answer, gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            answer.cancel()
            await asyncio.wait({answer})
            if gone.done():
                raise ClientDisconnected
            if not answer.cancelled():  # a write that had begun
                return answer.result()
            raise APIError(504, f"not done within {timeout:g} s; ask for less at a time")
        finally:
            over.set()
            for task in (answer, gone):
                task.cancel()

    def _log_request(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        logger.info("%s %s %d %.1f ms", method, route, status, 1000 * seconds)


def log_fault(scope: Scope, error: Exception) -> None:
    """Logs where an error was raised, without its message, which may hold a request's text."""
    logger.error("%s %s: %s", scope["method"], _route(scope), location(error))


class ClientDisconnected(Exception):  # noqa: N818
    """The client no longer waits for an answer."""


async def _call(answer: Awaitable[Any]) -> None:
    await answer


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _route(scope: Scope) -> str:
    """Returns the route's pattern, since a path may hold an id."""
    return getattr(scope.get("route"), "path", None) or scope.get("root_path") or "other"


def is_loopback(host: str) -> bool:
    """Returns whether a host's name is one of this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "")
