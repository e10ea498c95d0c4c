"""SIGKILL in the middle of writes: acknowledged documents must be stored, and none in part."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from client import Client
from server import Server

WRITERS = 4


async def lost_writes(uri: Path, model: str, copy: Path, writes: int) -> dict[str, Any]:
    """Writes one document after another, kills the server half-way, starts it again and counts what is lost.

    Args:
        uri: The index.
        model: The retriever.
        copy: Folder of the server's copy.
        writes: Number of documents; half of them are acknowledged when the server dies.
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
    lost, damaged, errors, stored = 0, 0, 0, 0
    with Server(uri, model, copy) as server:
        client = Client(server.port)
        for i in range(writes):
            status, found, _ = await client.call("GET", f"/v1/documents/{_document(i)['id']}")
            errors += status not in (200, 404)
            lost += status == 404 and str(i) in acknowledged
            stored += status == 200
            damaged += status == 200 and found != _document(i)
        status, answer, _ = await client.call("POST", "/v1/search", {"query": "keep things in order"})
        errors += status != 200 or len(answer["hits"]) != 10
        status, answer, _ = await client.call("POST", "/v1/documents", {"documents": [_document(writes)]})
        errors += status != 200
        client.close()
    return {"acknowledged": len(acknowledged), "stored": stored, "lost": lost + damaged, "errors": errors}


def _document(i: int) -> dict[str, Any]:
    return {"id": f"killed/{i}", "title": f"Number {i}", "text": f"keeps {i} things in order", "metadata": {"n": [i]}}
