"""Changes of the index, one after another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rabtriever.index import Index
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.workers import WorkerPool

logger = logging.getLogger("rabtriever.serving")
WRITES_BEFORE_OPTIMIZE = 100


class IndexWriter:
    """A thread that changes the index, prepares it for the next search, and optimizes it after some changes.

    Args:
        index: The index, opened to write.
        keep_minutes: Minutes that versions of the index are kept.
        metrics: Where times are exported.
    """

    def __init__(self, index: Index, keep_minutes: float, metrics: Metrics) -> None:
        self._index, self._retention, self._metrics = index, timedelta(minutes=keep_minutes), metrics
        self._pool = WorkerPool("write")
        self._writes_since_optimize, self._optimize_tasks = 0, set[asyncio.Task[None]]()

    async def run(self, change: Callable[..., None], *args: Any) -> None:  # noqa: ANN401
        """Calls ``change(*args)``; once begun, it is completed even if the client leaves."""
        with self._metrics.stage("write"):
            await self._pool.run_uncancellable(self._change, change, *args)
        if self._writes_since_optimize >= WRITES_BEFORE_OPTIMIZE:
            self._writes_since_optimize = 0
            task = asyncio.create_task(self._optimize())
            self._optimize_tasks.add(task)
            task.add_done_callback(self._optimize_tasks.discard)

    def close(self) -> None:
        """Ends the thread when its current change is done."""
        self._pool.close()

    def _change(self, change: Callable[..., None], *args: Any) -> None:  # noqa: ANN401
        change(*args)
        self._writes_since_optimize += 1
        try:
            self._index.warm()
        except Exception as error:  # the change is made all the same; the next search tries again
            logger.warning("the index was not opened after a change: %s", type(error).__name__)

    async def _optimize(self) -> None:
        try:
            await self._pool.run(self._index.optimize, self._retention)
        except Exception as error:  # tried again after further changes
            logger.warning("the index was not optimized: %s", type(error).__name__)
