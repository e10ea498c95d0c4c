"""Servers in their own processes, and a gateway in front of them with the official client."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from rabtriever.mcp.catalogue import Tool
from rabtriever.mcp.gateway import Gateway
from rabtriever.mcp.pins import Pins
from rabtriever.sources.mcp_config import read_servers

STUB = Path(__file__).with_name("stub_server.py")


class Stubs:
    """A file of stub servers, whose tools a test can change."""

    script = STUB

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self._servers = folder, folder / "mcp.json", dict[str, Any]()

    def add(self, name: str, tools: dict[str, str], **config: Any) -> Path:
        """Adds a server and returns the file of its tools."""
        path = self.set(name, tools)
        self._servers[name] = config or {"command": sys.executable, "args": [str(STUB), name, str(path)]}
        self.path.write_text(json.dumps({"mcpServers": self._servers}))
        return path

    def set(self, name: str, tools: dict[str, str]) -> Path:
        """Gives a server other tools, which it lists when it is asked."""
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(tools))
        return path

    def limit(self, name: str, **lists: list[str]) -> None:
        """Sets a server's allow or deny list."""
        self._servers[name] |= lists
        self.path.write_text(json.dumps({"mcpServers": self._servers}))

    @asynccontextmanager
    async def gateway(self, mode: str = "auto", started: bool = True, **options: Any):  # noqa: ANN201
        """Runs a gateway before all servers; yields it and a client, once all have started or failed to."""
        gateway = Gateway(read_servers(self.path), Pins(self.folder / "pins"), **options)
        async with gateway.running(), Client(gateway.server, mode=mode) as client:
            with anyio.fail_after(60):
                for server in gateway.servers.values() if started else ():
                    await server.asked.wait()
            yield gateway, client


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    """No servers yet."""
    return Stubs(tmp_path)


async def eventually(condition: Callable[[], Any]) -> None:
    """Waits until a condition holds; fails if it does not within half a minute."""
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)


def make_tools(descriptions: dict[str, str]) -> dict[str, Tool]:
    """Tools by id, ``server.name``."""
    tools = {}
    for id, description in descriptions.items():
        server, _, name = id.partition(".")
        fields = {"name": name, "title": None, "description": description, "inputSchema": {"type": "object"}}
        tools[id] = Tool(id, server, name, fields, changed=False, available=True)
    return tools


@pytest.fixture(name="eventually")
def _eventually() -> Callable[[Callable[[], Any]], Any]:
    return eventually


@pytest.fixture(name="make_tools")
def _make_tools() -> Callable[[dict[str, str]], dict[str, Tool]]:
    return make_tools
