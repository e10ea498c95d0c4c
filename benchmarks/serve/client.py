"""A minimal HTTP client, since its time is taken from the server's cores."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import quote


class Client:
    """One connection that stays open.

    Args:
        port: The server's, on this machine.
    """

    def __init__(self, port: int) -> None:
        self.port, self._streams = port, None

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any, float]:
        """Returns the status, the answer and the seconds."""
        if self._streams is None or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        reader, writer = self._streams
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {quote(path)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        started = time.perf_counter()
        writer.write((head + "Content-Type: application/json\r\n\r\n").encode() + data)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in answer.split("\r\n")[1:] if ": " in line)
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        seconds = time.perf_counter() - started
        return int(answer.split(" ", 2)[1]), json.loads(content) if content else None, seconds

    def close(self) -> None:
        """Closes the connection."""
        if self._streams:
            self._streams[1].close()
            self._streams = None
