"""Whose turn it is: places for requests, threads for work, batches of queries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from threading import Event
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from rabtriever.serving.errors import APIError
from rabtriever.serving.metrics import Metrics
from rabtriever.threads import available_cores, thread_pool

Result = TypeVar("Result")
SIDES = 2  # batches that are read side by side


class ConcurrencyLimiter:
    """A bounded queue: so many requests of a kind may wait or be worked at.

    Args:
        kind: As metrics call it.
        capacity: How many.
        metrics: Where their number is told.
    """

    def __init__(self, kind: str, capacity: int, metrics: Metrics) -> None:
        self.capacity, self.taken, self._seconds = capacity, 0, 1.0
        self._kind, self._gauge = kind, metrics.queue.labels(kind)

    @contextmanager
    def take(self, count: int = 1) -> Iterator[None]:
        """Hold a place, or several.

        Raises:
            APIError: 429, they are not to be had.
        """
        if self.taken + min(count, self.capacity) > self.capacity:
            retry = min(60, max(1, ceil(self._seconds)))
            raise APIError(429, f"{self.taken} {self._kind} requests wait already; try again later", retry=retry)
        self.taken += count
        self._gauge.set(self.taken)
        started = perf_counter()
        try:
            yield
        finally:
            self.taken -= count
            self._gauge.set(self.taken)
            self._seconds += 0.1 * (perf_counter() - started - self._seconds)  # how long a place is held, lately


def timed(work: Callable[..., Result]) -> Callable[..., tuple[Result, float]]:
    """The same, which also tells the seconds it took, in its thread."""

    def run(*args: Any) -> tuple[Result, float]:  # noqa: ANN401
        started = perf_counter()
        return work(*args), perf_counter() - started

    return run


class WorkerPool:
    """Threads that work in turn; whoever stops waiting before his turn loses it.

    Args:
        pool: Its threads, or a name for them.
        threads: How many, if they are to be made.
    """

    def __init__(self, pool: ThreadPoolExecutor | str, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, f"rabtriever-{pool}") if isinstance(pool, str) else pool

    async def run(self, work: Callable[..., Result], *args: Any) -> Result:  # noqa: ANN401
        """``work(*args)`` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    async def run_whole(self, work: Callable[..., Result], *args: Any) -> Result:  # noqa: ANN401
        """As :meth:`run`, but what has begun is waited for, even by who is told to stop."""
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
        """End its threads when they are done."""
        self._pool.shutdown(cancel_futures=True)


@dataclass(eq=False)
class _Waiting:
    """A text that somebody waits for."""

    text: str
    tokens: int
    answer: asyncio.Future[np.ndarray]
    people: int = 0
    since: float = field(default_factory=perf_counter)
    seconds: float = 0.0  # that its batch took


class QueryBatcher:
    """Queries encoded together: what came while others were read is the next batch, within a token budget.

    Nobody waits for others to come. A query that comes alone is read with all cores; else two batches are read side by
    side, each with half of them, so that no core waits for another. A text that several ask for is read once.

    Args:
        encode: TokenCounts to float32 (n, dim).
        budget: Tokens of a batch, but for a single longer text.
        metrics: Where sizes and times are told.
    """

    def __init__(self, encode: Callable[[Sequence[str]], np.ndarray], budget: int, metrics: Metrics) -> None:
        self._encode, self._budget, self._metrics = encode, budget, metrics
        self._alone, self._half = (
            WorkerPool("encode"),
            WorkerPool(thread_pool(SIDES, max(1, available_cores() // SIDES))),
        )
        self._queue: dict[str, _Waiting] = {}
        self._read: dict[str, _Waiting] = {}  # those in a thread
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, text: str, tokens: int) -> tuple[np.ndarray, float]:
        """A query's encoding, float32 (dim,), and the seconds that its batch took.

        Args:
            text: The query.
            tokens: How many it has.
        """
        item = self._read.get(text) or self._queue.get(text)
        if item is None:
            item = self._queue[text] = _Waiting(text, tokens, asyncio.get_running_loop().create_future())
            asyncio.get_running_loop().call_soon(self._start)  # after others of the same request
        item.people += 1
        try:
            row = await asyncio.shield(item.answer)
        finally:
            item.people -= 1
            if not item.people and self._queue.get(text) is item:
                del self._queue[text]  # nobody is left
        return row, item.seconds

    def _start(self) -> None:
        while self._queue and len(self._tasks) < SIDES:
            lane = self._alone if not self._tasks and len(self._queue) == 1 else self._half
            task = asyncio.create_task(self._work(self._next(), lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: self._start())

    async def _work(self, batch: list[_Waiting], lane: WorkerPool) -> None:
        started = perf_counter()
        self._metrics.batch.observe(len(batch))
        for item in batch:
            self._read[item.text] = item
            self._metrics.stages.labels("queue").observe(started - item.since)
        try:
            rows, seconds = await lane.run(timed(self._encode), [item.text for item in batch])
        except Exception as error:
            for item in batch:
                item.answer.set_exception(error)
                item.answer.exception()  # they may all have left
        else:
            for item, row in zip(batch, rows, strict=True):
                item.seconds = seconds
                item.answer.set_result(row)
            self._metrics.stages.labels("encode").observe(seconds)
        for item in batch:
            del self._read[item.text]

    def _next(self) -> list[_Waiting]:
        waiting = list(self._queue.values())
        share = sum(item.tokens for item in waiting) / (SIDES - len(self._tasks))
        batch: list[_Waiting] = []
        total = 0
        for item in waiting:
            total += item.tokens
            if batch and total > min(self._budget, share):
                break
            batch.append(self._queue.pop(item.text))
        return batch

    def close(self) -> None:
        """End its threads."""
        self._alone.close()
        self._half.close()
