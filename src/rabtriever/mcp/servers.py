"""The servers behind the gateway: each is started, asked for its tools, followed while it lives, and started again."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import mcp_types as types
from mcp.client.client import Client
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from rabtriever import __version__
from rabtriever.errors import RemoteError
from rabtriever.mcp.catalogue import Catalogue
from rabtriever.mcp.plain import without_keys
from rabtriever.sources.mcp_config import ServerConfig
from rabtriever.sources.mcp_servers import open_transport

logger = logging.getLogger("rabtriever.mcp")

CONNECT_TIMEOUT = 120.0  # seconds: `npx` and `uvx` download a server before they start it
FIRST_RETRY, LAST_RETRY = 0.5, 60.0  # seconds between attempts, doubled each time
POLL = 60.0  # seconds after which a server behind a URL is asked again: nothing tells that it is gone
CALL_WAIT = 10.0  # seconds that a call waits for a server that is starting
MAX_PAGES = 1000  # of a list of tools
GATEWAY = "RABTRIEVER_MCP_GATEWAY"  # set for servers, so that a gateway does not start itself


class Server:
    """One server.

    Args:
        config: How to reach it.
        catalogue: Gets its tools.
        changed: Called when they are there, have changed, or are away.

    Attributes:
        asked: Set once it has listed its tools or has failed to.
    """

    def __init__(self, config: ServerConfig, catalogue: Catalogue, changed: Callable[[], None]) -> None:
        self.config, self.asked = config, anyio.Event()
        self._catalogue, self._changed = catalogue, changed
        self._client: Client | None = None
        self._connected = anyio.Event()
        self._wake = anyio.Event()  # set to ask it for its tools; it is connected anew if that fails
        self._closed, self._fault = False, ""

    async def run(self) -> None:
        """Keeps it connected until cancelled."""
        delay = FIRST_RETRY
        while True:
            started = anyio.current_time()
            try:
                await self._serve()
                fault = "it ended"
            except Exception as error:
                fault = _describe(error)
            if self._connected.is_set():
                self._connected = anyio.Event()
                delay = FIRST_RETRY if anyio.current_time() - started > delay else delay
            self._away()
            self.asked.set()
            if fault != self._fault:  # said once
                logger.warning("server %s is away: %s; it is tried again", self.config.name, fault)
            self._fault = fault
            await anyio.sleep(delay * random.uniform(0.8, 1.2))
            delay = min(2 * delay, LAST_RETRY)

    async def call(
        self, tool: str, arguments: dict[str, Any] | None, progress: ProgressFnT | None = None
    ) -> types.CallToolResult:
        """Calls a tool, once: what was lost on the way is not sent again, since it may have had its effect.

        Raises:
            RemoteError: the server is away, was lost during the call, or answers what cannot be passed on.
            MCPError: the server's own.
        """
        if self._client is None:
            with anyio.move_on_after(0 if self.asked.is_set() else CALL_WAIT):
                await self._connected.wait()
        name = self.config.name
        if (client := self._client) is None:
            state = "away" if self.asked.is_set() else "being started"  # the log says why: a fault may quote a key
            raise RemoteError(f"server {name!r} is {state}; try again later")
        try:
            result = await client.session.call_tool(
                tool, arguments, progress_callback=progress, allow_input_required=True
            )
        except RuntimeError as error:  # its result is not what the tool declares
            raise RemoteError(f"server {name!r}: {' '.join(str(error).split())}") from None
        except MCPError as error:
            if error.code == types.CONNECTION_CLOSED:
                raise self._lost() from error
            if error.code in (types.INVALID_REQUEST, types.INTERNAL_ERROR):  # so says HTTP that a session is gone
                self._wake.set()
            raise
        except Exception as error:  # of the transport
            raise self._lost() from error
        if isinstance(result, types.InputRequiredResult):
            raise RemoteError(f"server {name!r}: {tool} asks its client back, which a gateway cannot pass on")
        return result

    def _lost(self) -> RemoteError:
        self._wake.set()
        fault = "was lost during the call, which may or may not have had its effect"
        return RemoteError(f"server {self.config.name!r} {fault}; look before you call again")

    async def _serve(self) -> None:
        """Connects, and follows the server's tools until it is gone."""
        self._closed, self._wake = False, anyio.Event()
        with anyio.CancelScope(deadline=anyio.current_time() + CONNECT_TIMEOUT) as scope:
            transport = _watch(open_transport(self.config, sys.stderr, {GATEWAY: "1"}), self._on_closed)
            async with Client(
                transport,
                message_handler=self._on_message,
                client_info=types.Implementation(name="rabtriever", version=__version__),
                cache=None,
            ) as client:
                await self._list(client)
                scope.deadline = float("inf")
                self._client, self._fault = client, ""
                self._connected.set()
                self.asked.set()
                async with anyio.create_task_group() as group:
                    group.start_soon(self._listen, client)
                    await self._follow(client)
                    group.cancel_scope.cancel()
        if scope.cancelled_caught:
            raise TimeoutError(f"no answer in {CONNECT_TIMEOUT:.0f} seconds")

    async def _follow(self, client: Client) -> None:
        """Lists the tools again whenever there is reason to; returns when the server is gone."""
        while not self._closed:
            with anyio.move_on_after(POLL if self.config.url else float("inf")):
                await self._wake.wait()
            if not self._closed:
                self._wake = anyio.Event()
                with anyio.fail_after(CONNECT_TIMEOUT):
                    await self._list(client)

    async def _listen(self, client: Client) -> None:
        """Hears of changed lists where the protocol has subscriptions; before, they are notifications."""
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return
        tools = client.server_capabilities.tools
        if tools is None or not tools.list_changed:
            return
        try:
            async with client.listen(tools_list_changed=True) as events:
                async for _ in events:
                    self._wake.set()
        except Exception as error:
            logger.info("server %s tells nothing of changed tools (%s)", self.config.name, _describe(error))
        self._wake.set()

    async def _list(self, client: Client) -> None:
        tools, cursor, seen = list[Mapping[str, Any]](), None, set[str]()
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                if tool.name in seen:
                    logger.warning("server %s lists %r twice; the first counts", self.config.name, tool.name)
                    continue
                seen.add(tool.name)
                tools.append(_fields(tool))
            cursor = page.next_cursor
            if cursor is None:
                break
        else:
            logger.warning("server %s: its list of tools has no end; %d were read", self.config.name, len(tools))
        if await anyio.to_thread.run_sync(self._catalogue.listed, self.config.name, tools):
            self._changed()

    async def _on_message(self, message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._wake.set()

    def _on_closed(self) -> None:
        self._closed = True
        self._away()
        self._wake.set()

    def _away(self) -> None:
        self._client = None
        if self._catalogue.lost(self.config.name):
            self._changed()


class _Watched:
    """A stream of messages that tells when it ends."""

    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:  # noqa: ANN401
        self._stream, self._ended = stream, ended

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._stream, name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:  # noqa: ANN401
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._ended()
            raise

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        ended: bool | None = await self._stream.__aexit__(kind, error, trace)
        return ended


@asynccontextmanager
async def _watch(transport: AbstractAsyncContextManager[Any], ended: Callable[[], None]) -> AsyncIterator[Any]:
    async with transport as (read, write):
        yield _Watched(read, ended), write


def _fields(tool: types.Tool) -> Mapping[str, Any]:
    title = tool.title or (tool.annotations.title if tool.annotations else None)
    return {"name": tool.name, "title": title, "description": tool.description, "inputSchema": tool.input_schema}


def _describe(error: BaseException) -> str:
    """Returns the first cause of an error as one line."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return without_keys(" ".join(f"{error or type(error).__name__}".split()))[:200]
