"""What the gateway's benchmarks have in common: stub servers, a gateway before them, the official client."""

from __future__ import annotations

import json
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from mcp import Client, StdioServerParameters

STUB = Path(__file__).with_name("stub_server.py")


def write_config(folder: Path, corpus: Path, servers: int, tools: int) -> Path:
    """Writes a file of stub servers that share the first tools of a corpus."""
    each = -(-tools // servers)
    starts = {f"server{number}": number * each for number in range(servers) if number * each < tools}
    values = {
        name: {
            "command": sys.executable,
            "args": [str(STUB), name, str(corpus), str(start), str(min(each, tools - start)), str(folder / name)],
        }
        for name, start in starts.items()
    }
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": values}))
    return path


@asynccontextmanager
async def gateway_process(config: Path, model: str):
    """Starts ``rabtriever mcp`` and yields the official client, connected over stdio."""
    command = ["-m", "rabtriever.cli", "mcp", "--config", str(config), "--state", str(config.parent / "state")]
    command += ["--model", model]
    with open(config.parent / "gateway.log", "a") as log:
        from mcp.client.stdio import stdio_client

        server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
        async with Client(stdio_client(server, errlog=log)) as client:
            yield client


async def search(client: Client, request: str, k: int = 5) -> dict[str, Any]:
    """Returns the structured answer of a search."""
    result = await client.call_tool("search_tools", {"request": request, "k": k})
    if result.is_error:
        raise RuntimeError(result.content[0].text)
    return result.structured_content


async def until_encoded(client: Client, log: Path, probe: str) -> None:
    """Waits until the model ranks all tools, as the gateway's log says."""
    while " tools are ready" not in (log.read_text() if log.is_file() else ""):
        await anyio.sleep(0.5)
    while True:
        found = await search(client, probe)
        if all(one["match"] != "words" for one in found["tools"] + found["closest"]):
            return
        await anyio.sleep(0.5)


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Returns percentiles of durations; the tenth is what they take when nothing else wants the cores."""
    return {f"p{p}_ms": round(float(np.percentile(np.array(seconds) * 1000, p)), 1) for p in (10, 50, 95)}
