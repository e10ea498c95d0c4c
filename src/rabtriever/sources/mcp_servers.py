"""MCP servers that a config file names: each is started and asked for its tools."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, TextIO

from rabtriever.errors import InputError, RemoteError, first_line, shorten

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from mcp import Client

TIMEOUT = 60.0  # seconds for a server to start and list its tools: `npx` and `uvx` may download it first
KINDS = {"command": str, "args": list, "env": dict, "cwd": str, "url": str, "headers": dict}
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def server_tools(servers: Any, place: str, timeout: float = TIMEOUT) -> dict[str, list[dict[str, Any]]]:  # noqa: ANN401
    """Starts all servers side by side and returns their tools by server, in the file's order; then all are closed.

    Args:
        servers: The value of ``mcpServers``: name -> ``command``, ``args``, ``env`` and ``cwd`` of a server that speaks
            over its standard input and output, or ``url`` and ``headers`` of one behind streamable HTTP. In them
            ``${NAME}`` and ``${NAME:-default}`` stand for environment variables. Those with ``disabled: true`` are
            left out.
        place: The file, for messages.
        timeout: Seconds that each has.

    Raises:
        InputError: an entry is malformed, or ``mcp`` is not installed.
        RemoteError: a server does not start or does not list its tools; the message names the first such.
    """
    if not isinstance(servers, Mapping) or not servers:
        raise InputError(f"{place}: mcpServers is {shorten(servers)}; give an object of name and server")
    entries = {
        str(name): _entry(f"{place}, server {name!r}", entry)
        for name, entry in servers.items()
        if not (isinstance(entry, Mapping) and entry.get("disabled"))
    }
    try:
        import anyio
        import mcp  # noqa: F401
    except ImportError:
        raise InputError(f"{place}: MCP servers need the extra `mcp`; run: pip install 'rabtriever[mcp]'") from None
    found: dict[str, list[dict[str, Any]] | RemoteError] = {}

    async def ask(name: str, entry: Mapping[str, Any]) -> None:
        with TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            try:
                with anyio.fail_after(timeout):
                    found[name] = await _list_tools(entry, log)
            except Exception as error:
                fault = _fault(error, log, timeout)
                where = f"{place}, server {name!r}"
                found[name] = RemoteError(f"{where}: listed no tools ({fault}); start it by hand to see why")

    async def ask_all() -> None:
        async with anyio.create_task_group() as group:
            for name, entry in entries.items():
                group.start_soon(ask, name, entry)

    anyio.run(ask_all)
    tools: dict[str, list[dict[str, Any]]] = {}
    for name in entries:
        answer = found[name]
        if isinstance(answer, RemoteError):
            raise answer
        tools[name] = answer
    return tools


async def _list_tools(entry: Mapping[str, Any], log: TextIO) -> list[dict[str, Any]]:
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        client = await _connect(entry, log, stack)
        tools: dict[str, dict[str, Any]] = {}
        cursor: str | None = None
        while True:  # a server whose pages never end runs into the timeout
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                tools.setdefault(tool.name, tool.model_dump(mode="json", by_alias=True, exclude_none=True))
            if not (cursor := page.next_cursor):
                return list(tools.values())


async def _connect(entry: Mapping[str, Any], log: TextIO, stack: AsyncExitStack) -> Client:
    from mcp import Client

    if "url" in entry:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        http = await stack.enter_async_context(httpx2.AsyncClient(headers=entry.get("headers"), timeout=TIMEOUT))
        return await stack.enter_async_context(Client(streamable_http_client(entry["url"], http_client=http)))
    from mcp.client.stdio import StdioServerParameters, stdio_client

    started = StdioServerParameters(**{key: entry[key] for key in ("command", "args", "env", "cwd") if key in entry})
    return await stack.enter_async_context(Client(stdio_client(started, errlog=log)))


def _entry(place: str, entry: Any) -> dict[str, Any]:  # noqa: ANN401
    """Returns a server's entry, checked, with environment variables filled in."""
    if not isinstance(entry, Mapping) or ("command" in entry) == ("url" in entry):
        raise InputError(f"{place}: give it either a command or a url")
    given = {key: entry[key] for key in KINDS if key in entry}
    for key, value in given.items():
        parts = value.values() if isinstance(value, dict) else value
        if not isinstance(value, KINDS[key]) or not all(isinstance(part, str) for part in parts):
            raise InputError(f"{place}: {key} is {shorten(value)}; give strings, as in other clients' configuration")
    return {key: _filled(place, value) for key, value in given.items()}


def _filled(place: str, value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return VARIABLE.sub(lambda match: _variable(place, match), value)
    if isinstance(value, list):
        return [_filled(place, part) for part in value]
    if isinstance(value, Mapping):
        return {key: _filled(place, part) for key, part in value.items()}
    return value


def _variable(place: str, match: re.Match[str]) -> str:
    value = os.environ.get(match[1], match[2])
    if value is None:
        raise InputError(f"{place}: the environment variable {match[1]} is not set; set it")
    return value


def _fault(error: BaseException, log: TextIO, timeout: float) -> str:
    """Returns why a server did not answer: the last line that it wrote, or what the client says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    log.seek(0)
    lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    said = f"no answer in {timeout:g} s" if isinstance(error, TimeoutError) else first_line(error)
    return f"{said}; its last line: {shorten(lines[-1])}" if lines else said
