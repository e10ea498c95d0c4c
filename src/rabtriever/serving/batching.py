"""Batches: queries encoded together, scans done together, and slices of what is long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from rabtriever.index import Hit
from rabtriever.index.search import SearchOptions
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.workers import WorkerPool, timed
from rabtriever.threads import available_cores, thread_pool

Retrieve = Callable[[Sequence[str], np.ndarray, SearchOptions], list[list[Hit]]]
PARALLEL_BATCHES = 2  # batches of queries that are encoded, or retrieved, side by side
MAX_SLICE_TOKENS = 256  # document tokens that the LLM reads before other requests have their turn


@dataclass(eq=False)
class _PendingQuery:
    """A query to encode."""

    text: str
    tokens: int
    row: asyncio.Future[np.ndarray]
    waiters: int = 0
    since: float = field(default_factory=perf_counter)
    seconds: float = 0.0  # that its batch took


class QueryBatcher:
    """Encodes queries together: those that arrive while others are encoded are the next batch, up to a token budget.

    No query waits for others to arrive. A single query is encoded with all cores; otherwise two batches are encoded
    side by side, each with half of the cores, so that no core waits for another. A text that several requests need at
    the same time is encoded once.

    Args:
        encode: Texts to float32 (n, dim).
        max_tokens: Tokens of a batch; a longer query is a batch of its own.
        metrics: Where sizes and times are exported.
    """

    def __init__(self, encode: Callable[[Sequence[str]], np.ndarray], max_tokens: int, metrics: Metrics) -> None:
        self._encode, self._max_tokens, self._metrics = encode, max_tokens, metrics
        self._all_cores = WorkerPool("encode")
        self._half_cores = WorkerPool(thread_pool(PARALLEL_BATCHES, max(1, available_cores() // PARALLEL_BATCHES)))
        self._queue: dict[str, _PendingQuery] = {}
        self._in_progress: dict[str, _PendingQuery] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, text: str, tokens: int) -> tuple[np.ndarray, float]:
        """Returns a query's encoding, float32 (dim,), and the seconds that its batch took.

        Args:
            text: The query.
            tokens: Its number of tokens.
        """
        query = self._in_progress.get(text) or self._queue.get(text)
        if query is None:
            loop = asyncio.get_running_loop()
            query = self._queue[text] = _PendingQuery(text, tokens, loop.create_future())
            loop.call_soon(self._start)  # after the other queries of the same request
        query.waiters += 1
        try:
            row = await asyncio.shield(query.row)
        finally:
            query.waiters -= 1
            if not query.waiters and self._queue.get(text) is query:
                del self._queue[text]
        return row, query.seconds

    def _start(self) -> None:
        while self._queue and len(self._tasks) < PARALLEL_BATCHES:
            pool = self._all_cores if not self._tasks and len(self._queue) == 1 else self._half_cores
            task = asyncio.create_task(self._run(self._next_batch(), pool))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: self._start())

    async def _run(self, batch: list[_PendingQuery], pool: WorkerPool) -> None:
        started = perf_counter()
        self._metrics.batch.observe(len(batch))
        for query in batch:
            self._in_progress[query.text] = query
            self._metrics.stages.labels("queue").observe(started - query.since)
        try:
            rows, seconds = await pool.run(timed, self._encode, [query.text for query in batch])
        except Exception as error:
            for query in batch:
                query.row.set_exception(error)
                query.row.exception()  # all waiters may have left
        else:
            for query, row in zip(batch, rows, strict=True):
                query.seconds = seconds
                query.row.set_result(row)
            self._metrics.stages.labels("encode").observe(seconds)
        for query in batch:
            del self._in_progress[query.text]

    def _next_batch(self) -> list[_PendingQuery]:
        waiting = list(self._queue.values())
        share = sum(query.tokens for query in waiting) / (PARALLEL_BATCHES - len(self._tasks))
        batch: list[_PendingQuery] = []
        total = 0
        for query in waiting:
            total += query.tokens
            if batch and total > min(self._max_tokens, share):
                break
            batch.append(self._queue.pop(query.text))
        return batch

    def close(self) -> None:
        """Ends the threads."""
        self._all_cores.close()
        self._half_cores.close()


@dataclass(eq=False)
class _PendingScan:
    """Encoded queries of one request to retrieve documents for."""

    texts: Sequence[str]
    vectors: np.ndarray
    hits: asyncio.Future[tuple[list[list[Hit]], float]]


class ScanBatcher:
    """Retrieves together for requests that are ready at the same time and search in the same way.

    One call for many queries looks for a newer version once, and reads each block of documents once.

    Args:
        retrieve: :meth:`rabtriever.index.Index.retrieve`.
        metrics: Where times are exported.
    """

    def __init__(self, retrieve: Retrieve, metrics: Metrics) -> None:
        self._retrieve, self._metrics = retrieve, metrics
        self._pool = WorkerPool("scan", PARALLEL_BATCHES)
        self._queue: dict[SearchOptions, list[_PendingScan]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(
        self, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions
    ) -> tuple[list[list[Hit]], float]:
        """Returns a request's hits, query by query, and the seconds that its batch took.

        Args:
            texts: n queries.
            vectors: Theirs, float32 (n, dim).
            options: How to search.
        """
        loop = asyncio.get_running_loop()
        scan = _PendingScan(texts, vectors, loop.create_future())
        self._queue.setdefault(options, []).append(scan)
        loop.call_soon(self._start)  # after the others whose queries were encoded in the same batch
        return await scan.hits

    def _start(self) -> None:
        while self._queue and len(self._tasks) < PARALLEL_BATCHES:
            options = next(iter(self._queue))
            batch = [scan for scan in self._queue.pop(options) if not scan.hits.cancelled()]
            if batch:
                task = asyncio.create_task(self._run(batch, options))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(lambda _: self._start())

    async def _run(self, batch: list[_PendingScan], options: SearchOptions) -> None:
        texts, vectors = [text for scan in batch for text in scan.texts], np.concatenate([s.vectors for s in batch])
        try:
            hits, seconds = await self._pool.run(timed, self._retrieve, texts, vectors, options)
        except Exception as error:
            for scan in batch:
                if not scan.hits.cancelled():
                    scan.hits.set_exception(error)
        else:
            rest = iter(hits)
            for scan in batch:
                of_request = [next(rest) for _ in scan.texts]
                if not scan.hits.cancelled():
                    scan.hits.set_result((of_request, seconds))
            self._metrics.stages.labels("scan").observe(seconds)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()


@dataclass(frozen=True)
class TokenCounts:
    """Sizes of some texts.

    Attributes:
        lengths: Tokens of each, before truncation.
        budget: Tokens to which each is truncated.
    """

    lengths: list[int]
    budget: int

    @property
    def used(self) -> list[int]:
        """Tokens of each that the models read."""
        return [min(length, self.budget) for length in self.lengths]

    @property
    def truncated(self) -> int:
        """Number of texts that are truncated."""
        return sum(length > self.budget for length in self.lengths)


def slices(sizes: Sequence[int]) -> Iterator[slice]:
    """Yields slices that cover ``sizes`` in order, of at most ``MAX_SLICE_TOKENS`` together, or of one."""
    start, total = 0, 0
    for position, size in enumerate(sizes):
        if position > start and total + size > MAX_SLICE_TOKENS:
            yield slice(start, position)
            start, total = position, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
