"""The tools that may be found and called now, whatever becomes of their servers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any

from rabtriever.data import Document
from rabtriever.errors import InputError, NotFoundError
from rabtriever.mcp.pins import DIGITS, FIELDS, Pin, Pins, digest
from rabtriever.mcp.plain import printable
from rabtriever.sources.mcp_config import ServerConfig
from rabtriever.sources.tools import tool_document

logger = logging.getLogger("rabtriever.mcp")


@dataclass(frozen=True)
class Tool:
    """A tool.

    Attributes:
        id: What clients call it by, ``server.name``.
        server: Its server's name in the file of servers.
        name: Its own name there.
        fields: ``name``, ``title``, ``description``, ``inputSchema`` as they were approved.
        changed: Whether its server now gives others. Nobody has read those yet, so no model gets to see them.
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
        self._seen: dict[str, Mapping[str, Mapping[str, Any]]] = {}  # server -> name -> fields as it gives them
        self._pins: dict[str, Mapping[str, Pin]] = {}
        self._stamps: dict[str, int] = {}
        self._available = dict.fromkeys(self.servers, False)
        self._warned: set[str] = set()
        self._lock = Lock()  # lists are taken in threads
        for server in self.servers:
            stamp, known = pins.stamp(server), pins.read(server)
            self._seen[server] = {name: pin.tool for name, pin in known.items() if pin.listed}
            self._take(server, stamp, known)
        self._join()

    def listed(self, server: str, tools: Sequence[Mapping[str, Any]]) -> bool:
        """Takes a connected server's tools; returns whether anything differs from before."""
        seen = {tool["name"]: {key: tool.get(key) for key in FIELDS} for tool in tools}
        self._check_patterns(server, list(seen))
        stamp = self.pins.stamp(server)  # before the file is read: what is written meanwhile is read at the next search
        try:
            pins = self.pins.saw(server, tools)
        except InputError as error:
            self._warn(f"{error}; until then only what was approved before counts")
            pins = dict(self._pins[server])
        if new := pins.keys() - self._pins[server].keys():
            logger.info("server %s: %d tools are new; they are approved as they are, unread", server, len(new))
        for name in (name for name, pin in pins.items() if pin.changed):
            self._warn(f"server {server}: {name!r} changed after it was approved; it is not called until that is")
        with self._lock:
            self._seen[server], self._available[server] = seen, True
            self._take(server, stamp, pins)
            return self._join()

    def lost(self, server: str) -> bool:
        """Marks a server's tools as unavailable; returns whether they were not."""
        with self._lock:
            self._available[server] = False
            return self._join()

    def refresh(self) -> None:
        """Takes over what another process approved since."""
        for server in self.servers:
            if (stamp := self.pins.stamp(server)) == self._stamps[server]:
                continue
            try:
                pins = self.pins.read(server)
                if not self._seen[server].keys() <= pins.keys():  # the file was removed: all count as new
                    pins = self.pins.saw(server, list(self._seen[server].values()))
            except InputError as error:
                self._warn(f"{error}; until then only what was approved before counts")
                pins = dict(self._pins[server])
            with self._lock:
                self._take(server, stamp, pins)
                self._join()

    def find(self, id: str) -> Tool:
        """Returns a tool; raises NotFoundError that names those with a like name."""
        if tool := self.tools.get(id):
            return tool
        leaf = id.rpartition(".")[2].casefold()
        like = [printable(one.id) for one in self.tools.values() if leaf in (one.name.casefold(), one.id.casefold())]
        remedy = f"did you mean {', '.join(like[:5])}?" if like else "find its name with search_tools"
        raise NotFoundError(f"no tool {id!r}; {remedy}")

    def changed(self) -> list[tuple[Tool, Pin]]:
        """Returns the tools that wait for approval, and what is known of them."""
        return [(tool, self._pins[tool.server][tool.name]) for tool in self.tools.values() if tool.changed]

    def approve(self, approvals: Sequence[str]) -> list[str]:
        """Approves tools, each given as ``ID@DIGEST`` of the text that was read, and returns their ids.

        Raises:
            NotFoundError: there is no such tool.
            InputError: a digest is missing, or the tool's text is another by now. Nothing is approved then.
        """
        read: dict[str, dict[str, str]] = {}
        ids = []
        for approval in approvals:
            id, _, given = approval.rpartition("@")
            if not id or approval in self.tools:
                raise InputError(f"{approval!r} lacks a digest; write it as `--approve` shows it", param="approve")
            tool = self.find(id)
            if digest(self._pins[tool.server][tool.name].tool)[:DIGITS] != given:
                fault = f"{id!r} has another text than {given!r}"
                raise InputError(f"{fault}; look at it again with `--approve`", param="approve")
            read.setdefault(tool.server, {})[tool.name] = given
            ids.append(id)
        for server, digests in read.items():
            self.pins.approve(server, digests)
        return ids

    def _check_patterns(self, server: str, names: Sequence[str]) -> None:
        """Warns of patterns that match nothing: such a ``deny`` does not do what somebody wanted."""
        for key, pattern in self.servers[server].idle_patterns(names):
            fault = "matches none of its tools; a pattern is of their own names, capitals count"
            self._warn(f"server {server}: {key} {pattern!r} {fault}")

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("%s", message)

    def _take(self, server: str, stamp: int, pins: Mapping[str, Pin]) -> None:
        self._stamps[server], self._pins[server] = stamp, pins

    def _join(self) -> bool:
        """Makes the tools anew; returns whether they differ. What is equal stays the same object, known by others."""
        tools: dict[str, Tool] = {}
        for server, seen in self._seen.items():
            config, pins = self.servers[server], self._pins[server]
            for name, fields in seen.items():
                if (pin := pins.get(name)) is None or not config.allows(name):
                    continue
                id = f"{config.prefix}.{name}"
                changed = pin.changed if fields == pin.tool else digest(fields) != pin.approved
                tool = Tool(id, server, name, pin.approved_tool, changed, self._available[server])
                old = self.tools.get(id)
                if old and old.fields == tool.fields:
                    tool = old if old == tool else replace(tool, fields=old.fields)
                tools[id] = tool
        if differ := tools != self.tools or list(tools) != list(self.tools):
            self.tools = tools
        return differ
