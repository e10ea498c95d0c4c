"""MCP servers that a config file names: each is started and asked for its tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from tempfile import TemporaryFile
from typing import Any, TextIO

from rabtriever.errors import RemoteError, first_line, shorten
from rabtriever.extras import needs
from rabtriever.sources.mcp_config import ServerConfig

TIMEOUT = 60.0  # seconds for a server to start and list its tools: `npx` and `uvx` may download it first
HTTP_TIMEOUT, HTTP_READ_TIMEOUT = 30.0, 300.0  # seconds; a call that takes longer sends progress or a ping


def server_tools(
    servers: Sequence[ServerConfig], place: str, timeout: float = TIMEOUT
) -> dict[str, list[dict[str, Any]]]:
    """Starts all servers side by side and returns the tools that each allows, in the file's order; then all are closed.

    Args:
        servers: The servers.
        place: The file, for messages.
        timeout: Seconds that each has.

    Returns:
        What the names of a server's tools begin with (``ServerConfig.prefix``) -> the tools, JSON-ready.

    Raises:
        MissingExtraError: ``mcp`` is not installed.
        RemoteError: a server does not start or does not list its tools; the message names the first such.
    """
    with needs("mcp"):
        import anyio
        import mcp  # noqa: F401
    found: dict[str, list[dict[str, Any]] | RemoteError] = {}

    async def ask(server: ServerConfig) -> None:
        with TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            try:
                with anyio.fail_after(timeout):
                    found[server.prefix] = [
                        tool for tool in await _list_tools(server, log) if server.allows(tool["name"])
                    ]
            except Exception as error:
                fault = _fault(error, log, timeout)
                where = f"{place}: server {server.name!r}"
                found[server.prefix] = RemoteError(f"{where}: listed no tools ({fault}); start it by hand to see why")

    async def ask_all() -> None:
        async with anyio.create_task_group() as group:
            for server in servers:
                group.start_soon(ask, server)

    anyio.run(ask_all)
    tools: dict[str, list[dict[str, Any]]] = {}
    for server in servers:
        answer = found[server.prefix]
        if isinstance(answer, RemoteError):
            raise answer
        tools[server.prefix] = answer
    return tools


@asynccontextmanager
async def open_transport(
    server: ServerConfig, log: TextIO, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Any]:
    """Starts or reaches a server: the streams that an MCP client speaks over.

    Args:
        server: The server.
        log: Gets what a started one writes to its standard error.
        variables: Further variables of a started one's environment.
    """
    if server.command:
        from mcp.client.stdio import StdioServerParameters, stdio_client

        environment = {**server.env, **(variables or {})}
        started = StdioServerParameters(command=server.command, args=list(server.args), env=environment, cwd=server.cwd)
        async with stdio_client(started, errlog=log) as streams:
            yield streams
    elif server.sse:
        from mcp.client.sse import sse_client

        async with sse_client(server.url, headers=dict(server.headers)) as streams:
            yield streams
    else:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        timeout = httpx2.Timeout(HTTP_TIMEOUT, read=HTTP_READ_TIMEOUT)
        async with httpx2.AsyncClient(headers=dict(server.headers), timeout=timeout) as http:
            async with streamable_http_client(server.url, http_client=http) as streams:
                yield streams


async def _list_tools(server: ServerConfig, log: TextIO) -> list[dict[str, Any]]:
    from mcp import Client

    async with Client(open_transport(server, log)) as client:
        tools: dict[str, dict[str, Any]] = {}
        cursor: str | None = None
        while True:  # a server whose pages never end runs into the timeout
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                tools.setdefault(tool.name, tool.model_dump(mode="json", by_alias=True, exclude_none=True))
            if not (cursor := page.next_cursor):
                return list(tools.values())


def _fault(error: BaseException, log: TextIO, timeout: float) -> str:
    """Returns why a server did not answer: the last line that it wrote, or what the client says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    log.seek(0)
    lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    said = f"no answer in {timeout:g} s" if isinstance(error, TimeoutError) else first_line(error)
    return f"{said}; its last line: {shorten(lines[-1])}" if lines else said
