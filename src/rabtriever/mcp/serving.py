"""How clients reach a server: over its standard input and output, or over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import anyio
import uvicorn
from mcp.server.lowlevel import Server as MCPServer
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rabtriever.errors import InputError
from rabtriever.mcp.plain import Formatter
from rabtriever.serving.auth import APIKeys
from rabtriever.serving.listening import listen, on_loopback, url_of

PATH = "/mcp"


def serve(
    server: MCPServer[Any],
    running: AbstractAsyncContextManager[None] | None,
    address: str | None,
    keys: APIKeys,
    listening: Callable[[str], None],
) -> None:
    """Serves until the client goes away or a signal comes.

    Args:
        server: The server.
        running: What must run meanwhile; None: nothing.
        address: ``HOST:PORT`` for HTTP, port 0 takes a free one; None: standard input and output.
        keys: Whose holders may connect over HTTP; of a host beyond this machine, at least one.
        listening: Called with the URL.

    Raises:
        InputError: an address that cannot be used, or one beyond this machine without a key.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("mcp", "client", "httpx2", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if address is None:
        anyio.run(_over_stdio, server, running)
    else:
        _over_http(server, running, address, keys, listening)


async def _over_stdio(server: MCPServer[Any], running: AbstractAsyncContextManager[None] | None) -> None:
    async with running or nullcontext(), stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def _over_http(
    server: MCPServer[Any],
    running: AbstractAsyncContextManager[None] | None,
    address: str,
    keys: APIKeys,
    listening: Callable[[str], None],
) -> None:
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal():
        raise InputError(f"--http {address}: write HOST:PORT, such as 127.0.0.1:8765", param="http")
    host, given = host.strip("[]"), f"--http {address}"
    if not host:
        raise InputError(f"{given}: write HOST:PORT, such as 127.0.0.1:8765", param="http")
    loopback = on_loopback(host, given)
    if not (loopback or keys):
        raise InputError(f"--http {address}: reaches beyond this machine; give API keys (--keys)", param="http")
    # Only the key keeps strangers out beyond this machine; on it, a web page of another origin must not get in.
    names = ["127.0.0.1:*", "localhost:*", "[::1]:*", f"[{host}]:*" if ":" in host else f"{host}:*"]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=loopback,
        allowed_hosts=names,
        allowed_origins=[f"http://{name}" for name in names],
    )
    app: ASGIApp = server.streamable_http_app(streamable_http_path=PATH, transport_security=security)
    config = uvicorn.Config(_WithKeys(app, keys) if keys else app, log_level="warning", timeout_graceful_shutdown=2)

    async def run() -> None:
        async with running or nullcontext():
            await uvicorn.Server(config).serve(sockets=[listener])

    with listen(host, int(port), given) as listener:
        listening(url_of(listener) + PATH)
        anyio.run(run)


class _WithKeys:
    """Lets in who has a key that may write: whoever can call tools can do what they do."""

    def __init__(self, app: ASGIApp, keys: APIKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or "write" in self._keys.roles(Headers(scope=scope).get("authorization", "")):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            say = "give a key that may write: Authorization: Bearer KEY\n"
            await PlainTextResponse(say, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})
