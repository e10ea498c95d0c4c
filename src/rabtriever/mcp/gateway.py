"""The gateway: one MCP server with two tools, in front of any number of MCP servers."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server as MCPServer
from mcp.shared.exceptions import MCPError

from rabtriever import __version__
from rabtriever.errors import InputError, first_line, shorten
from rabtriever.mcp.answers import (
    CALL_TOOL,
    DEFAULT_K,
    INSTRUCTIONS,
    SEARCH_TOOLS,
    error_result,
    read_k,
    read_text,
    search_result,
)
from rabtriever.mcp.catalogue import Catalogue
from rabtriever.mcp.feedback import Feedback
from rabtriever.mcp.pins import Pins
from rabtriever.mcp.search import ToolSearch
from rabtriever.mcp.servers import Server
from rabtriever.mcp.vectors import Vectors
from rabtriever.sources.mcp_config import ServerConfig

logger = logging.getLogger("rabtriever.mcp")

FIRST_SEARCH = 1.0  # seconds that searches wait for servers of which nothing is known, once
FIRST_LISTS = 10.0  # seconds that loading the model leaves to servers that are starting
BEFORE_MODEL = 1.0  # seconds that loading the model, which slows all else down, leaves to a first search
SETTLE = 0.2  # seconds without a change before tools are encoded
RETRY = 30.0  # seconds after which tools that could not be encoded are tried again
DAY = 24 * 3600 * 1000  # milliseconds


class Gateway:
    """Searches and calls the tools of many servers.

    Args:
        servers: The servers.
        pins: What was approved of their tools.
        vectors: What a retriever makes of the tools; None: names and words alone.
        feedback: Where to note what searches led to; None: nowhere.
        approval: The command that shows changed tools, and how to approve them; it is said when one is called.

    Attributes:
        server: What a transport serves, while :meth:`running`.
    """

    def __init__(
        self,
        servers: Sequence[ServerConfig],
        pins: Pins,
        vectors: Vectors | None = None,
        feedback: Feedback | None = None,
        approval: str = "rabtriever mcp --approve",
    ) -> None:
        self.catalogue, self.search = Catalogue(servers, pins), ToolSearch(vectors)
        self._vectors, self._feedback, self._approval = vectors, feedback, approval
        self._changed, self._searched = anyio.Event(), anyio.Event()
        self._waited = False  # for servers of which nothing is known
        self.servers = {one.name: Server(one, self.catalogue, self._note_change) for one in servers}
        self.server: MCPServer[Any] = MCPServer(
            "rabtriever",
            version=__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call,
            cache_hints={"tools/list": CacheHint(DAY, "public")},
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts the servers, and the model in the background; stops them at the end."""
        async with anyio.create_task_group() as group:
            for server in self.servers.values():
                group.start_soon(server.run)
            group.start_soon(self._prepare)
            if self._feedback:
                group.start_soon(self._feedback.run)
            try:
                yield
            finally:
                group.cancel_scope.cancel()
        if self._feedback:
            self._feedback.store()

    async def search_tools(self, request: str, k: int = DEFAULT_K, session: str = "") -> types.CallToolResult:
        """Answers a search; ``session`` says whose it is."""
        await self._first_lists()
        self.catalogue.refresh()
        if self._vectors is not None:
            lost = await anyio.to_thread.run_sync(self._vectors.follow)
            if lost:  # vectors, to another gateway: words stand in until they are there again
                self._note_change()
        starting = [name for name, server in self.servers.items() if not server.asked.is_set()]  # of these tools
        answer = await anyio.to_thread.run_sync(self.search.search, request, k, self.catalogue.tools)
        self._searched.set()
        if self._feedback and answer.found and answer.found[0].match != "name":
            self._feedback.searched(session, request, [one.tool.id for one in answer.found])
        return search_result(answer, starting)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: ServerRequestContext[Any, Any]
    ) -> types.CallToolResult:
        """Calls a tool on its server.

        Raises:
            InputError: there is no such tool, it has changed since it was approved, or its server is away.
            MCPError: the server's own.
        """
        if name not in self.catalogue.tools:
            await self._first_lists()
        self.catalogue.refresh()
        tool = self.catalogue.find(name)
        if tool.changed:
            fault = "its description or schema changed after it was approved; it is not called until the user has read"
            raise InputError(f"{name}: {fault} and approved it; ask for that: {self._approval}")
        try:
            result = await self.servers[tool.server].call(tool.name, arguments, context.session.report_progress)
        except Exception:
            self._note_call(context, name, succeeded=False)
            raise
        self._note_call(context, name, succeeded=not result.is_error)
        return result

    def _note_call(self, context: ServerRequestContext[Any, Any], name: str, succeeded: bool) -> None:
        if self._feedback:
            self._feedback.called(session_of(context), name, succeeded)

    async def _list_tools(
        self, context: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[SEARCH_TOOLS, CALL_TOOL])

    async def _call(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        given = params.arguments or {}
        try:
            if params.name == SEARCH_TOOLS.name:
                return await self.search_tools(read_text(given, "request"), read_k(given), session_of(context))
            if params.name == CALL_TOOL.name:
                return await self.call_tool(*_name_and_arguments(given), context)
        except InputError as error:
            return error_result(str(error))
        raise MCPError(types.INVALID_PARAMS, f"no tool {params.name!r}; call {CALL_TOOL.name} with its name")

    async def _first_lists(self) -> None:
        """Waits for servers of which nothing is known, once and a moment; the answer names those still starting."""
        if self._waited:
            return
        known = {tool.server for tool in self.catalogue.tools.values()}
        with anyio.move_on_after(FIRST_SEARCH):
            for name, server in self.servers.items():
                if name not in known:
                    await server.asked.wait()
        self._waited = True

    async def _prepare(self) -> None:
        """Loads the model when servers have started and a first search had its chance; then encodes what changes."""
        with anyio.move_on_after(FIRST_LISTS):
            for server in self.servers.values():
                await server.asked.wait()
                await anyio.to_thread.run_sync(self.search.prepare, self.catalogue.tools)
        if self._vectors is None:
            return
        with anyio.move_on_after(BEFORE_MODEL):
            await self._searched.wait()
        try:
            await anyio.to_thread.run_sync(self._vectors.open, abandon_on_cancel=True)
        except Exception as error:
            logger.warning("the model cannot be loaded, tools are found by names and words (%s)", first_line(error))
            return
        ready = False
        while True:
            changed, wait = self._changed, float("inf")
            try:
                tools = self.catalogue.tools
                encoded = await anyio.to_thread.run_sync(self._vectors.sync, tools, abandon_on_cancel=True)
                if encoded or not ready:
                    uri = self._vectors.index.table.uri if self._vectors.index else None
                    logger.info("%d tools are ready, %d encoded now: %s", len(tools), encoded, uri)
                ready = True
            except Exception as error:
                logger.warning("tools cannot be encoded, they are tried again (%s)", first_line(error))
                wait = RETRY
            with anyio.move_on_after(wait):
                await changed.wait()
            await anyio.sleep(SETTLE)

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def session_of(context: ServerRequestContext[Any, Any]) -> str:
    """Returns what tells the sessions of clients apart: over stdio there is one; HTTP names it, or the client does."""
    request = context.request
    if request is None:
        return ""
    headers, client = request.headers, request.client
    named = headers.get("mcp-session-id") or f"{client.host if client else ''} {headers.get('authorization', '')}"
    return hashlib.sha256(named.encode()).hexdigest()  # whoever reads this process's memory finds no key in it


def _name_and_arguments(given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name, arguments = given.get("name"), given.get("arguments")
    if not isinstance(name, str):
        raise InputError(f"name is {shorten(name)}; give the name of a tool that search_tools found")
    if isinstance(arguments, str):  # some models write JSON in JSON
        try:
            arguments = json.loads(arguments)
        except ValueError:
            pass
    if arguments is not None and not isinstance(arguments, dict):
        raise InputError(f"arguments are {shorten(arguments)}; give an object, as the tool's inputSchema says")
    return name, arguments or {}
