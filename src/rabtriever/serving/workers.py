"""Bounds on the number of requests, and the threads that work for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import ceil
from threading import Event
from time import perf_counter
from typing import TypeVar

from rabtriever.serving.errors import APIError
from rabtriever.serving.metrics import Metrics

Result = TypeVar("Result")


class ConcurrencyLimiter:
    """A bounded number of requests of one kind that wait or are in progress."""

    def __init__(self, kind: str, capacity: int, metrics: Metrics) -> None:
        self.capacity, self.in_use, self._seconds = capacity, 0, 1.0
        self._kind, self._gauge = kind, metrics.queue.labels(kind)

    @contextmanager
    def acquire(self, count: int = 1) -> Iterator[None]:
        """Occupies ``count`` slots, or all if there are not that many, while the context lasts.

        Raises:
            APIError: 429, they are not free.
        """
        if self.in_use + min(count, self.capacity) > self.capacity:
            message = f"{self.in_use} {self._kind} requests wait already; try again later"
            raise APIError(429, message, retry_after=min(60, max(1, ceil(self._seconds))))
        started = perf_counter()
        self._occupy(count)
        try:
            yield
        finally:
            self._occupy(-count)
            self._seconds += 0.1 * (perf_counter() - started - self._seconds)  # a moving average

    def _occupy(self, count: int) -> None:
        self.in_use += count
        self._gauge.set(self.in_use)


class WorkerPool:
    """Threads that work through a queue; a call that is cancelled before its turn never runs.

    Args:
        pool: The threads, or a name for those to start.
        threads: How many to start.
    """

    def __init__(self, pool: ThreadPoolExecutor | str, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, f"rabtriever-{pool}") if isinstance(pool, str) else pool

    def submit(self, work: Callable[[], object]) -> None:
        """Calls ``work()`` in a thread, for its effects alone."""
        self._pool.submit(work)

    async def run(self, work: Callable[..., Result], *args: object) -> Result:
        """Returns ``work(*args)``, called in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    async def run_uncancellable(self, work: Callable[..., Result], *args: object) -> Result:
        """Returns ``work(*args)``; a caller that is cancelled once it has begun waits for its end all the same."""
        begun = Event()

        def begin() -> Result:
            begun.set()
            return work(*args)

        task = asyncio.ensure_future(self.run(begin))
        while True:
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                if not begun.is_set():
                    task.cancel()
                    raise

    def close(self) -> None:
        """Ends the threads when their current work is done."""
        self._pool.shutdown(cancel_futures=True)
