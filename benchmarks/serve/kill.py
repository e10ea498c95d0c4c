"""SIGKILL in the middle of writes: what was acknowledged must be there, and nothing half."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from client import Client
from server import Server

WRITERS = 4


async def lost_writes(uri: Path, model: str, copy: Path, writes: int) -> dict[str, Any]:
    """Write one document after another, kill the server half-way, start it again and look.

    Args:
        uri: The index.
        model: The retriever.
        copy: Where the server's copy lies.
        writes: How many documents; half of them are acknowledged when the server dies.
    """
    acknowledged: list[str] = []
    with Server(uri, model, copy) as server:

        async def writer(number: int) -> None:
            client = Client(server.port)
            for i in range(number, writes, WRITERS):
                try:
                    status, _, _ = await client.call("POST", "/v1/documents", {"documents": [_document(i)]})
                except (OSError, EOFError):
                    return  # it is dead
                if status == 200:
                    acknowledged.append(str(i))
                if len(acknowledged) == writes // 2:
                    server.kill()

        await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    lost, half, errors, there = 0, 0, 0, 0
    with Server(uri, model, copy) as server:
        client = Client(server.port)
        for i in range(writes):
            status, found, _ = await client.call("GET", f"/v1/documents/{_document(i)['id']}")
            errors += status not in (200, 404)
            lost += status == 404 and str(i) in acknowledged
            there += status == 200
            half += status == 200 and found != _document(i)
        status, answer, _ = await client.call("POST", "/v1/search", {"query": "keep things in order"})
        errors += status != 200 or len(answer["hits"]) != 10
        status, answer, _ = await client.call("POST", "/v1/documents", {"documents": [_document(writes)]})
        errors += status != 200
        client.close()
    return {"acknowledged": len(acknowledged), "there": there, "lost": lost + half, "errors": errors}


def _document(i: int) -> dict[str, Any]:
    return {"id": f"killed/{i}", "title": f"Number {i}", "text": f"keeps {i} things in order", "metadata": {"n": [i]}}
