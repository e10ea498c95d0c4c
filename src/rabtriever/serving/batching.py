"""Batches: queries encoded together, scans done together, and slices of what is long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from rabtriever.index import Hit
from rabtriever.index.search import SearchOptions
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.workers import WorkerPool
from rabtriever.threads import available_cores, thread_pool

Retrieve = Callable[[Sequence[str], np.ndarray, SearchOptions], list[list[Hit]]]
PARALLEL_BATCHES = 2  # batches of queries that are encoded, or retrieved, side by side
MAX_SLICE_TOKENS = 256  # document tokens that the LLM reads before other requests have their turn


class _Batcher:
    """A queue from which at most ``PARALLEL_BATCHES`` batches are run at a time."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._queue: dict[Any, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def _next_batch(self) -> Coroutine[Any, Any, None]:
        """Takes a batch from the queue, and returns what runs it."""
        raise NotImplementedError

    def _start(self) -> None:
        while self._queue and len(self._tasks) < PARALLEL_BATCHES:
            task = asyncio.create_task(self._next_batch())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: self._start())

    async def _run(
        self,
        stage: str,
        futures: Sequence[asyncio.Future[Any]],
        pool: WorkerPool,
        work: Callable[..., Any],
        *args: object,
    ) -> None:
        """Gives each future its result of ``work(*args)``, with the seconds that the batch took."""
        try:
            results, seconds = await pool.run(_timed, work, *args)
        except Exception as error:
            for future in futures:
                if not future.cancelled():
                    future.set_exception(error)
                    future.exception()  # all who waited may have left
        else:
            for future, result in zip(futures, results, strict=True):
                if not future.cancelled():
                    future.set_result((result, seconds))
            self._metrics.stages.labels(stage).observe(seconds)


@dataclass(eq=False)
class _PendingQuery:
    """A query to encode."""

    text: str
    tokens: int
    encoded: asyncio.Future[tuple[np.ndarray, float]]
    waiters: int = 0
    since: float = field(default_factory=perf_counter)


class QueryBatcher(_Batcher):
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
        super().__init__(metrics)
        self._encode, self._max_tokens = encode, max_tokens
        self._all_cores = WorkerPool("encode")
        self._half_cores = WorkerPool(thread_pool(PARALLEL_BATCHES, max(1, available_cores() // PARALLEL_BATCHES)))
        self._in_progress: dict[str, _PendingQuery] = {}

    async def __call__(self, text: str, tokens: int) -> tuple[np.ndarray, float]:
        """Returns the encoding, float32 (dim,), of a query of so many tokens, and the seconds that its batch took."""
        query = self._in_progress.get(text) or self._queue.get(text)
        if query is None:
            loop = asyncio.get_running_loop()
            query = self._queue[text] = _PendingQuery(text, tokens, loop.create_future())
            loop.call_soon(self._start)  # after the other queries of the same request
        query.waiters += 1
        try:
            return await asyncio.shield(query.encoded)
        finally:
            query.waiters -= 1
            if not query.waiters and self._queue.get(text) is query:
                del self._queue[text]

    def _next_batch(self) -> Coroutine[Any, Any, None]:
        waiting: list[_PendingQuery] = list(self._queue.values())
        pool = self._all_cores if not self._tasks and len(waiting) == 1 else self._half_cores
        share = sum(query.tokens for query in waiting) / (PARALLEL_BATCHES - len(self._tasks))
        batch: list[_PendingQuery] = []
        total = 0
        for query in waiting:
            total += query.tokens
            if batch and total > min(self._max_tokens, share):
                break
            batch.append(self._queue.pop(query.text))
        return self._encode_batch(batch, pool)

    async def _encode_batch(self, batch: list[_PendingQuery], pool: WorkerPool) -> None:
        self._metrics.batch.observe(len(batch))
        self._in_progress |= {query.text: query for query in batch}
        for query in batch:
            self._metrics.stages.labels("queue").observe(perf_counter() - query.since)
        texts = [query.text for query in batch]
        await self._run("encode", [query.encoded for query in batch], pool, self._encode, texts)
        for text in texts:
            del self._in_progress[text]

    def close(self) -> None:
        """Ends the threads."""
        self._all_cores.close()
        self._half_cores.close()


class _PendingScan(NamedTuple):
    """Encoded queries of one request to retrieve documents for."""

    texts: Sequence[str]
    vectors: np.ndarray
    hits: asyncio.Future[tuple[list[list[Hit]], float]]


class ScanBatcher(_Batcher):
    """Retrieves together for requests that are ready at the same time and search in the same way.

    One call for many queries looks for a newer version once, and reads each block of documents once.

    Args:
        retrieve: :meth:`rabtriever.index.Index.retrieve`.
        metrics: Where times are exported.
    """

    def __init__(self, retrieve: Retrieve, metrics: Metrics) -> None:
        super().__init__(metrics)
        self._retrieve, self._pool = retrieve, WorkerPool("scan", PARALLEL_BATCHES)

    async def __call__(
        self, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions
    ) -> tuple[list[list[Hit]], float]:
        """Returns the hits of n queries with vectors float32 (n, dim), and the seconds that their batch took."""
        loop = asyncio.get_running_loop()
        scan = _PendingScan(texts, vectors, loop.create_future())
        self._queue.setdefault(options, []).append(scan)
        loop.call_soon(self._start)  # after the others whose queries were encoded in the same batch
        return await scan.hits

    def _next_batch(self) -> Coroutine[Any, Any, None]:
        options = next(iter(self._queue))
        return self._scan_batch(self._queue.pop(options), options)

    async def _scan_batch(self, waiting: list[_PendingScan], options: SearchOptions) -> None:
        batch = [scan for scan in waiting if not scan.hits.cancelled()]
        if batch:
            await self._run("scan", [scan.hits for scan in batch], self._pool, self._retrieve_all, batch, options)

    def _retrieve_all(self, batch: list[_PendingScan], options: SearchOptions) -> list[list[list[Hit]]]:
        texts = [text for scan in batch for text in scan.texts]
        hits = iter(self._retrieve(texts, np.concatenate([scan.vectors for scan in batch]), options))
        return [list(islice(hits, len(scan.texts))) for scan in batch]

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()


class TokenCounts(NamedTuple):
    """Sizes of some texts.

    Attributes:
        used: Tokens of each that the models read.
        truncated: Number of texts that are truncated.
    """

    used: list[int]
    truncated: int


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


def _timed(work: Callable[..., Any], *args: object) -> tuple[Any, float]:
    started = perf_counter()
    return work(*args), perf_counter() - started
