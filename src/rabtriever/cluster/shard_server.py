"""What a replica of a shard runs: the shard, without Ray, a model or torch in this file, so that it starts fast."""

from __future__ import annotations

import asyncio
from typing import Any

from rabtriever.cluster.segments import fetch_segments
from rabtriever.cluster.shards import Answer, Shard


class ShardServer:
    """A shard in a replica of Ray Serve's; it is ready when its part of the index is in memory.

    Args:
        uri: The index.
        number: Which shard, from 0 on.
        count: Of how many.
    """

    def __init__(self, uri: str, number: int, count: int) -> None:
        fetch_segments(uri, number, count)
        self._shard = Shard(uri, number, count)
        self._shard.warm()

    async def search(self, *args: Any) -> Answer:  # noqa: ANN401
        """Finds rows; arguments as of :meth:`Shard.search`."""
        return await asyncio.to_thread(self._shard.search, *args)

    async def warm(self, version: int) -> None:
        """Opens a version."""
        await asyncio.to_thread(self._shard.warm, version)
