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


@dataclass(eq=False)
class _Pending:
    """Queries to encode, or to retrieve for if they have vectors, and the futures that get the result and seconds."""

    texts: Sequence[str]
    tokens: int = 0
    vectors: np.ndarray | None = None
    futures: list[asyncio.Future[Any]] = field(default_factory=list)
    since: float = field(default_factory=perf_counter)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any more."""
        return all(future.cancelled() for future in self.futures)


class _Batcher:
    """A queue from which at most ``PARALLEL_BATCHES`` batches are run at a time."""

    def __init__(self, stage: str, metrics: Metrics, *pools: WorkerPool) -> None:
        self._stage, self._metrics, self._pools = stage, metrics, pools
        self._queue: dict[Any, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def _next_batch(self) -> Coroutine[Any, Any, None]:
        """Takes a batch from the queue, and returns what runs it."""
        raise NotImplementedError

    async def _result(self, pending: _Pending) -> Any:  # noqa: ANN401
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        pending.futures.append(future)
        loop.call_soon(self._start)  # after the others of the same request, or encoded in the same batch
        return await future

    def _start(self) -> None:
        while self._queue and len(self._tasks) < PARALLEL_BATCHES:
            task = asyncio.create_task(self._next_batch())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: self._start())

    async def _run(self, batch: list[_Pending], pool: WorkerPool, work: Callable[..., Any], *args: object) -> None:
        """Answers each of a batch by its row of ``work(*args)``."""
        try:
            results, seconds = await pool.run(_timed, work, *args)
        except Exception as error:
            for future in (future for pending in batch for future in pending.futures if not future.cancelled()):
                future.set_exception(error)
        else:
            for pending, result in zip(batch, results, strict=True):
                for future in (future for future in pending.futures if not future.cancelled()):
                    future.set_result((result, seconds))
            self._metrics.stages.labels(self._stage).observe(seconds)

    def close(self) -> None:
        """Ends the threads."""
        for pool in self._pools:
            pool.close()


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
        half_cores = thread_pool(PARALLEL_BATCHES, max(1, available_cores() // PARALLEL_BATCHES))
        super().__init__("encode", metrics, WorkerPool("encode"), WorkerPool(half_cores))
        self._encode, self._max_tokens = encode, max_tokens
        self._in_progress: dict[str, _Pending] = {}

    async def __call__(self, text: str, tokens: int) -> tuple[np.ndarray, float]:
        """Returns the encoding, float32 (dim,), of a query of so many tokens, and the seconds that its batch took."""
        query = self._in_progress.get(text) or self._queue.setdefault(text, _Pending([text], tokens))
        return await self._result(query)

    def _next_batch(self) -> Coroutine[Any, Any, None]:
        waiting: dict[str, _Pending] = {text: query for text, query in self._queue.items() if not query.abandoned}
        all_cores, half_cores = self._pools
        pool = all_cores if not self._tasks and len(waiting) == 1 else half_cores
        share = sum(query.tokens for query in waiting.values()) / (PARALLEL_BATCHES - len(self._tasks))
        batch, total = dict[str, _Pending](), 0
        for text, query in waiting.items():
            total += query.tokens
            if batch and total > min(self._max_tokens, share):
                break
            batch[text] = query
        self._queue = {text: query for text, query in waiting.items() if text not in batch}
        self._in_progress |= batch  # now, not when the task begins: a request in between would queue a text again
        return self._encode_batch(batch, pool)

    async def _encode_batch(self, batch: dict[str, _Pending], pool: WorkerPool) -> None:
        if not batch:
            return
        self._metrics.batch.observe(len(batch))
        for query in batch.values():
            self._metrics.stages.labels("queue").observe(perf_counter() - query.since)
        try:
            await self._run(list(batch.values()), pool, self._encode, list(batch))
        finally:
            for text in batch:
                del self._in_progress[text]


class ScanBatcher(_Batcher):
    """Retrieves together for requests that are ready at the same time and search in the same way.

    One call for many queries looks for a newer version once, and reads each block of documents once.

    Args:
        retrieve: :meth:`rabtriever.index.Index.retrieve`.
        metrics: Where times are exported.
    """

    def __init__(self, retrieve: Retrieve, metrics: Metrics) -> None:
        super().__init__("scan", metrics, WorkerPool("scan", PARALLEL_BATCHES))
        self._retrieve = retrieve

    async def __call__(
        self, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions
    ) -> tuple[list[list[Hit]], float]:
        """Returns the hits of n queries with vectors float32 (n, dim), and the seconds that their batch took."""
        scan = _Pending(texts, vectors=vectors)
        self._queue.setdefault(options, []).append(scan)
        return await self._result(scan)

    def _next_batch(self) -> Coroutine[Any, Any, None]:
        options = next(iter(self._queue))
        return self._scan_batch([scan for scan in self._queue.pop(options) if not scan.abandoned], options)

    async def _scan_batch(self, batch: list[_Pending], options: SearchOptions) -> None:
        if batch:
            await self._run(batch, self._pools[0], self._retrieve_all, batch, options)

    def _retrieve_all(self, batch: list[_Pending], options: SearchOptions) -> list[list[list[Hit]]]:
        texts = [text for scan in batch for text in scan.texts]
        hits = iter(self._retrieve(texts, np.concatenate([scan.vectors for scan in batch]), options))
        return [list(islice(hits, len(scan.texts))) for scan in batch]


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
