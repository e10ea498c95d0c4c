"""Whose turn it is: places for requests, threads for work, batches of queries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from rabtriever.serving.metrics import Metrics
from rabtriever.serving.refusals import Refusal

Result = TypeVar("Result")


class Places:
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
    def take(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            Refusal: 429, all are taken.
        """
        if self.taken >= self.capacity:
            retry = min(60, max(1, ceil(self._seconds)))
            raise Refusal(429, f"{self.taken} {self._kind} requests wait already; try again later", retry=retry)
        self.taken += 1
        self._gauge.set(self.taken)
        started = perf_counter()
        try:
            yield
        finally:
            self.taken -= 1
            self._gauge.set(self.taken)
            self._seconds += 0.1 * (perf_counter() - started - self._seconds)  # how long a place is held, lately


class Lane:
    """Threads that work in turn; whoever stops waiting before his turn loses it.

    Args:
        name: Of its threads.
        threads: How many.
    """

    def __init__(self, name: str, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, f"rabtriever-{name}")

    async def run(self, work: Callable[..., Result], *args: Any) -> Result:  # noqa: ANN401
        """``work(*args)`` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

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
    begun: float = 0.0


class Batcher:
    """Queries encoded together: what came while the last batch was read is the next one, within a token budget.

    Nobody waits for others to come: a batch begins as soon as the thread is free. A text that several ask for is read
    once.

    Args:
        encode: Texts to float32 (n, dim).
        budget: Tokens of a batch, but for a single longer text.
        metrics: Where sizes and times are told.
    """

    def __init__(self, encode: Callable[[Sequence[str]], np.ndarray], budget: int, metrics: Metrics) -> None:
        self._encode, self._budget, self._metrics = encode, budget, metrics
        self._lane, self._running = Lane("encode"), False
        self._queue: dict[str, _Waiting] = {}
        self._read: dict[str, _Waiting] = {}  # those in the thread
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, text: str, tokens: int) -> tuple[np.ndarray, float]:
        """A query's encoding, float32 (dim,), and the seconds it waited for its batch.

        Args:
            text: The query.
            tokens: How many it has.
        """
        item = self._read.get(text) or self._queue.get(text)
        if item is None:
            item = _Waiting(text, tokens, asyncio.get_running_loop().create_future())
            self._queue[text] = item
            if not self._running:
                self._running = True
                task = asyncio.create_task(self._work())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        item.people += 1
        arrived = perf_counter()
        try:
            row = await asyncio.shield(item.answer)
        finally:
            item.people -= 1
            if not item.people and self._queue.get(text) is item:
                del self._queue[text]  # nobody is left
        return row, max(0.0, item.begun - arrived)

    async def _work(self) -> None:
        try:
            while batch := self._next():
                self._read = {item.text: item for item in batch}
                started = perf_counter()
                for item in batch:
                    item.begun = started
                    self._metrics.stages.labels("queue").observe(started - item.since)
                self._metrics.batch.observe(len(batch))
                try:
                    rows = await self._lane.run(self._encode, [item.text for item in batch])
                except Exception as error:
                    for item in batch:
                        item.answer.set_exception(error)
                        item.answer.exception()  # they may all have left
                else:
                    for item, row in zip(batch, rows, strict=True):
                        item.answer.set_result(row)
                self._metrics.stages.labels("encode").observe(perf_counter() - started)
        finally:
            self._read, self._running = {}, False

    def _next(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        total = 0
        for item in list(self._queue.values()):
            total += item.tokens
            if batch and total > self._budget:
                break
            batch.append(self._queue.pop(item.text))
        return batch

    def close(self) -> None:
        """End its thread."""
        self._lane.close()
