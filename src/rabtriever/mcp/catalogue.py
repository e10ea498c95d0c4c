"""The tools that may be found and called now, whatever becomes of their servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any

from rabtriever.data import Document
from rabtriever.errors import NotFoundError
from rabtriever.mcp.pins import Pin, Pins, digest
from rabtriever.sources.mcp_config import ServerConfig
from rabtriever.sources.tools import tool_document


@dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
        id: What clients call it by, ``server.name``.
        server: Its server's name in the file of servers.
        name: Its own name there.
        fields: ``name``, ``title``, ``description``, ``inputSchema`` as its server gave them.
        changed: Whether they differ from what was approved.
        available: Whether its server is connected and has it.
    """

    id: str
    server: str
    name: str
    fields: Mapping[str, Any]
    changed: bool
    available: bool

    @cached_property
    def document(self) -> Document:
        """What models and BM25 read of it."""
        document = tool_document("", self.fields)
        return replace(document, id=self.id, metadata={"server": self.server, "name": self.name})


class Catalogue:
    """All tools that the servers' allow and deny lists leave; a server that is away keeps its tools.

    Args:
        servers: The servers. What :class:`Pins` know of their tools is there before they have started.
        pins: What was approved.

    Attributes:
        tools: By id. A change replaces the mapping, so that a thread can read it meanwhile.
    """

    def __init__(self, servers: Sequence[ServerConfig], pins: Pins) -> None:
        self.servers, self.pins = {server.name: server for server in servers}, pins
        self.tools: Mapping[str, Tool] = {}
        self._of_server: dict[str, dict[str, Tool]] = {}
        self._stamps: dict[str, int] = {}
        self._lock = Lock()  # lists are taken in threads
        for server in self.servers:
            self._set(server, pins.read(server), available=False)

    def listed(self, server: str, tools: Sequence[Mapping[str, Any]]) -> list[str]:
        """Takes a connected server's tools; returns the ids of those that are new or have changed since last time."""
        before = self._of_server[server]
        now = self._set(server, self.pins.saw(server, tools), available=True)
        return [id for id, tool in now.items() if id not in before or before[id].fields != tool.fields]

    def lost(self, server: str) -> None:
        """Marks a server's tools as unavailable."""
        with self._lock:
            of_server = self._of_server[server]
            self._of_server[server] = {id: replace(tool, available=False) for id, tool in of_server.items()}
            self._join()

    def refresh(self) -> None:
        """Takes over what another process approved since."""
        for server in self.servers:
            if (stamp := self.pins.stamp(server)) != self._stamps[server]:
                pins = self.pins.read(server)
                with self._lock:
                    self._stamps[server] = stamp
                    self._of_server[server] = {
                        id: replace(tool, changed=digest(tool.fields) != pins[tool.name].approved)
                        for id, tool in self._of_server[server].items()
                    }
                    self._join()

    def find(self, id: str) -> Tool:
        """Returns a tool; raises NotFoundError that names those with a like name."""
        if tool := self.tools.get(id):
            return tool
        leaf = id.rpartition(".")[2].casefold()
        like = [one.id for one in self.tools.values() if leaf in (one.name.casefold(), one.id.casefold())]
        remedy = f"did you mean {', '.join(like[:5])}?" if like else "find its name with search_tools"
        raise NotFoundError(f"no tool {id!r}; {remedy}")

    def changed(self) -> list[tuple[Tool, Pin]]:
        """Returns the tools that wait for approval, and what was approved of them."""
        found = [tool for tool in self.tools.values() if tool.changed]
        return [(tool, self.pins.read(tool.server)[tool.name]) for tool in found]

    def approve(self, ids: Sequence[str]) -> None:
        """Approves tools as they were last seen; raises NotFoundError for an unknown one, then approves none."""
        tools = [self.find(id) for id in ids]
        for server in {tool.server for tool in tools}:
            self.pins.approve(server, [tool.name for tool in tools if tool.server == server])

    def _set(self, server: str, pins: Mapping[str, Pin], available: bool) -> dict[str, Tool]:
        config, found = self.servers[server], dict[str, Tool]()
        for name, pin in pins.items():
            if pin.listed and config.allows(name):
                id = f"{config.prefix}.{name}"
                found[id] = Tool(id, server, name, pin.tool, pin.changed, available)
        with self._lock:
            self._stamps[server], self._of_server[server] = self.pins.stamp(server), found
            self._join()
        return found

    def _join(self) -> None:
        self.tools = {id: tool for of_server in self._of_server.values() for id, tool in of_server.items()}
