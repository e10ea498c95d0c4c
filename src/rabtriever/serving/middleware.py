"""What every request passes: who may, how large, how long, and whether its client is still there."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, BinaryIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rabtriever.serving.auth import APIKeys
from rabtriever.serving.config import ServerConfig
from rabtriever.serving.errors import APIError
from rabtriever.serving.metrics import Metrics

logger = logging.getLogger("rabtriever.serving")

OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json")  # without a key
OPEN_BELOW = ("/page/", "/static-offline-docs/", "/docs/")
CHANGING = ("/v1/documents",)
UPLOAD = b"application/x-ndjson"
IN_MEMORY, PIECE = 2**20, 2**16  # bytes of a body
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
GONE = 499  # nginx's status for a client that went away


class RequestMiddleware:
    """An ASGI middleware around everything.

    A body is received whole before anything begins, large ones to disk, so that a slow client holds nothing else up.

    Args:
        app: The application.
        settings: The server's.
        keys: Who may.
        metrics: What is told.
    """

    def __init__(self, app: ASGIApp, settings: ServerConfig, keys: APIKeys, metrics: Metrics) -> None:
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, seen = perf_counter(), {"status": 0, "whole": False}

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            await send(message)
            seen["whole"] = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            self._admit(scope)
            with tempfile.SpooledTemporaryFile(IN_MEMORY) as body:
                await self._receive(scope, receive, body)  # type: ignore[arg-type]
                scope["rabtriever.body"] = body
                await self._run(scope, body, receive, sent)  # type: ignore[arg-type]
        except _GoneError:
            seen["status"] = seen["status"] if seen["whole"] else GONE
        except APIError as refusal:
            if not seen["status"]:
                await refusal.response(scope["path"])(scope, receive, sent)
        except Exception as error:  # no trace to the client, no message to the log: either may hold a request's text
            frames = " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)))
            logger.error("%s %s: %s at %s", scope["method"], _route(scope), type(error).__name__, frames)
            if not seen["status"]:
                await APIError(500, "something went wrong here; the log knows more").response(scope["path"])(
                    scope, receive, sent
                )
        finally:
            self._tell(scope, seen["status"], perf_counter() - started)

    def _admit(self, scope: Scope) -> None:
        """Raise a refusal if this client may not."""
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        if self.settings.loopback and not self.settings.insecure and not self.keys:
            # A page of another site, its name pointed at this machine, must not get in.
            name = headers.get(b"host", b"localhost").decode("latin-1")
            if not is_loopback(name.rsplit(":", 1)[0] if not name.endswith("]") else name):
                raise APIError(421, "addressed to another host; without API keys only localhost is served")
        if not self.keys or path in OPEN or path.startswith(OPEN_BELOW):
            return
        roles = self.keys.roles(headers.get(b"authorization", b"").decode("latin-1"))
        if not roles:
            raise APIError(
                401, "no valid API key; send `Authorization: Bearer KEY`", headers={"WWW-Authenticate": "Bearer"}
            )
        if method in ("POST", "PUT", "PATCH", "DELETE") and path.startswith(CHANGING) and "write" not in roles:
            raise APIError(403, "this API key may read, not write")

    async def _receive(self, scope: Scope, receive: Receive, body: BinaryIO) -> None:
        """Receive a request's body."""
        headers, limits = dict(scope["headers"]), self.settings.limits
        upload = headers.get(b"content-type", b"").split(b";")[0].strip().lower() == UPLOAD
        upload = upload and scope["path"].startswith(CHANGING)
        most = (limits.upload_mb if upload else limits.body_mb) * 2**20
        if scope["path"] in OPEN or scope["path"].startswith(OPEN_BELOW):
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
                raise _GoneError
            piece = message.get("body", b"")
            size, more = size + len(piece), message.get("more_body", False)
            if size <= most:
                body.write(piece)
        if size > most:
            raise APIError(413, f"more than {most // 2**20} MB; send less at a time", headers={"Connection": "close"})
        scope["rabtriever.upload"] = upload
        body.seek(0)

    async def _run(self, scope: Scope, body: BinaryIO, receive: Receive, send: Send) -> None:
        """Let the application answer, as long as somebody waits for it."""
        timeout = None if scope["rabtriever.upload"] else self.settings.limits.timeout
        over, ended = asyncio.Event(), False

        async def replay() -> Message:
            nonlocal ended
            if ended:
                await over.wait()
                return {"type": "http.disconnect"}
            piece = body.read(PIECE)
            ended = len(piece) < PIECE
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
                raise _GoneError
            if not answer.cancelled():  # a change that had begun
                return answer.result()
            raise APIError(504, f"not done within {timeout:g} s; ask for less at a time")
        finally:
            over.set()
            for task in (answer, gone):
                task.cancel()

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        logger.info("%s %s %d %.1f ms", method, route, status, 1000 * seconds)


class _GoneError(Exception):
    """The client went away."""


async def _call(answer: Awaitable[Any]) -> None:
    await answer


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _route(scope: Scope) -> str:
    """The route's pattern: a path may hold an id."""
    return getattr(scope.get("route"), "path", None) or scope.get("root_path") or "other"


def is_loopback(host: str) -> bool:
    """Whether a host's name is one of this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "")
