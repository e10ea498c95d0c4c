"""The service behind the routes: an index and its models, shared by all requests."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from time import perf_counter
from typing import IO, Any, NamedTuple, cast

import numpy as np

from rabtriever.choices import MODES
from rabtriever.data import Document, FeedbackEvent
from rabtriever.errors import BusyError, InputError, NotFoundError
from rabtriever.index import Index
from rabtriever.index.context import Lists
from rabtriever.index.hits import Hits
from rabtriever.index.search import RerankPlan, SearchOptions, cut_hits, find_closest
from rabtriever.retriever import Rabtriever
from rabtriever.serving.batching import ScanBatcher, TokenCounts
from rabtriever.serving.config import ServerLimits
from rabtriever.serving.errors import APIError
from rabtriever.serving.feedback import FeedbackWriter
from rabtriever.serving.feedback_mode import FeedbackMode
from rabtriever.serving.filters import validate_filter
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.models import Kind, Models
from rabtriever.serving.workers import ConcurrencyLimiter, WorkerPool

DOCUMENTS_PER_BATCH = 256  # of an upload that are parsed together
WRITES_BEFORE_OPTIMIZE = 100
logger = logging.getLogger("rabtriever.serving")


class SearchResult(NamedTuple):
    """Hits of each query, best first; the sizes of the queries; milliseconds of each stage."""

    hits: list[Hits]
    counts: TokenCounts
    milliseconds: dict[str, float]


class ScoredDocument(NamedTuple):
    """Position of a document in its request, the probability that it is relevant, and its log-odds."""

    position: int
    probability: float
    log_odds: float


class SearchService:
    """Searches, scores, writes and takes feedback for many requests at once, each kind up to a number that may wait.

    An APIError, 429, says that too many wait, and 422 that there is no reranker. The library's errors pass through;
    :mod:`rabtriever.serving.errors` says how they are answered.
    """

    def __init__(self, index: Index, limits: ServerLimits, metrics: Metrics, feedback: str = "off") -> None:
        self.index, self.limits, self._metrics = index, limits, metrics
        self.retriever = cast(Rabtriever, index.retriever)
        index.write_timeout = limits.timeout / 2
        self._searches = ConcurrencyLimiter("search", limits.searches, metrics)
        self._reranks = ConcurrencyLimiter("rerank", limits.reranks, metrics)
        self._writes = ConcurrencyLimiter("write", limits.writes, metrics)
        self._feedbacks = ConcurrencyLimiter("feedback", limits.searches, metrics)
        self._models = Models(self.retriever, metrics)
        mode = FeedbackMode(feedback)
        self._feedback_writer = FeedbackWriter(index, self._models, mode, metrics) if mode.on else None
        self._scan_batcher = ScanBatcher(index.retrieve, metrics)
        self._write_pool, self._table_pool = WorkerPool("write"), WorkerPool("table")
        self._writes_since_optimize = 0

    def warm(self) -> None:
        """Loads and compiles what the first requests would have to wait for."""
        self.index.warm()
        self._models.warm()

    def modes(self) -> list[str]:
        """Returns the search modes for which this retriever has something to show."""
        try:
            self.retriever.encoder_only(np.empty((0, self.retriever.dim), np.float32), [])
        except InputError:
            return [mode for mode in MODES if mode != "encoder"]
        return list(MODES)

    async def search(
        self, queries: Sequence[str], options: SearchOptions, history: Lists | None = None, used: Lists | None = None
    ) -> SearchResult:
        """Finds hits as :meth:`rabtriever.index.Index.search` does for several queries."""
        started = perf_counter()
        reranker: Any = None if options.rerank is None else self._models.require_reranker("rerank")
        with self._searches.acquire(len(queries)):
            if options.where is not None:
                validate_filter(options.where)
            texts = await self._with_context(queries, history, used)
            counts = await self._models.count_tokens("query", texts)
            vectors, encode = await self._models.encode_queries(texts, counts)
            with _reading():
                hits, scan = await self._scan_batcher(texts, vectors, options)
        closest = find_closest(hits, options, self.retriever)
        stages = {"queue": perf_counter() - started - encode - scan, "encode": encode, "scan": scan}
        if options.rerank is not None:
            started = perf_counter()
            plan = RerankPlan(texts, hits, options)
            if len(plan.pairs):
                with self._reranks.acquire():
                    sizes = await self._models.count_tokens("document", plan.documents)
                    log_odds = await self._models.rerank(plan.queries, plan.documents, plan.pairs, sizes)
                hits = plan.apply(log_odds, reranker.calibration, self.retriever)
            stages["rerank"] = perf_counter() - started
        milliseconds = {stage: 1000 * seconds for stage, seconds in stages.items()}
        return SearchResult(cut_hits(hits, options, closest), counts, milliseconds)

    async def score(
        self, query: str, documents: Sequence[str], scorer: str, max_tokens: int = 0
    ) -> tuple[list[ScoredDocument], int]:
        """Scores documents that a request brings.

        Args:
            query: The query.
            documents: n texts.
            scorer: ``reranker`` or ``retriever``.
            max_tokens: Tokens to which documents are truncated, if fewer than the model's own budget; 0: none.

        Returns:
            The documents, the most probable first, and the number of tokens of the query and the documents.
        """
        models = self._models
        with self._reranks.acquire():
            if max_tokens:
                documents = await models.truncate_documents(documents, max_tokens)
            row_of = {text: row for row, text in enumerate(dict.fromkeys(documents))}
            different = list(row_of)
            of_query = await models.count_tokens("query", [query])
            of_documents = await models.count_tokens("document", different)
            if scorer == "reranker":
                calibration = models.require_reranker("model").calibration
                pairs = np.array([(0, row) for row in range(len(different))])
                log_odds = await models.rerank([query], different, pairs, of_documents)
            else:
                calibration = self.retriever.calibration
                vectors, _ = await models.encode_queries([query], of_query)
                latents = await models.encode_documents(different, of_documents)
                log_odds = self.retriever.similarity(vectors, latents)[0]
        rows = [row_of[text] for text in documents]
        tokens = sum(of_query.used) + sum(of_documents.used[row] for row in rows)
        ranking = [(int(row["corpus_id"]), row["score"]) for row in calibration.rank(log_odds[rows])]
        return [ScoredDocument(i, probability, float(log_odds[rows[i]])) for i, probability in ranking], tokens

    async def embed(self, kind: Kind, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """Returns the latents float32 (n, dim) of queries or documents, and their number of tokens."""
        with self._reranks.acquire():
            counts = await self._models.count_tokens(kind, texts)
            if kind == "query":
                vectors, _ = await self._models.encode_queries(texts, counts)
            else:
                vectors = await self._models.encode_documents(texts, counts)
        return vectors, sum(counts.used)

    async def write(self, documents: Callable[[], Iterable[Document]], replace: bool) -> int:
        """Adds documents in one transaction, visible when this returns, and returns their number.

        Args:
            documents: Returns them, each time it is called.
            replace: Whether they may replace those of the same ids.
        """
        with self._writes.acquire(), tempfile.TemporaryFile() as latents:
            stream, count = iter(documents()), 0
            while batch := await self._table_pool.run(lambda: list(islice(stream, DOCUMENTS_PER_BATCH))):
                texts = [document.content for document in batch]
                counts = await self._models.count_tokens("document", texts)
                latents.write((await self._models.encode_documents(texts, counts)).tobytes())
                count += len(batch)
            latents.seek(0)
            add = self.index.upsert if replace else self.index.add
            await self._change(add, documents(), _rows(latents, self.retriever.dim))
        return count

    async def get(self, identifier: str) -> Document:
        """Returns a document."""
        with _reading():
            found = await self._table_pool.run(self.index.get, [identifier])
        if not found:
            raise NotFoundError("no document of this id", param="id")
        return found[0]

    async def delete(self, identifier: str) -> None:
        """Removes a document."""
        with self._writes.acquire():
            await self._change(self.index.delete, [identifier])

    async def store_feedback(self, events: Sequence[FeedbackEvent]) -> None:
        """Stores feedback, all or none; errors as of :class:`rabtriever.serving.feedback.FeedbackWriter`."""
        if self._feedback_writer is None:
            raise APIError(404, "feedback is off; start the server with --feedback texts, or --feedback digests")
        with self._feedbacks.acquire():
            await self._feedback_writer(events)

    async def index_info(self) -> dict[str, Any]:
        """Returns the number of documents and the version of the index."""
        info = await self._table_pool.run(self.index.info)
        return {name: info[name] for name in ("documents", "version")}

    async def count(self) -> int:
        """Returns the number of documents in the index."""
        return await self._table_pool.run(len, self.index)

    def close(self) -> None:
        """Ends all threads."""
        for threads in (self._models, self._scan_batcher, self._write_pool, self._table_pool, self._feedback_writer):
            if threads is not None:
                threads.close()

    async def _with_context(self, queries: Sequence[str], history: Lists | None, used: Lists | None) -> Sequence[str]:
        if history is None and used is None:
            return queries
        with _reading():
            return await self._table_pool.run(self.index.with_context, queries, history, used)

    async def _change(self, change: Callable[..., None], *args: object) -> None:
        """Changes the index; once begun, it is completed even if the client leaves."""

        def change_and_warm() -> None:
            change(*args)
            _attempt(self.index.warm, "opened after a change")  # else the next search tries again

        with self._metrics.stages.labels("write").time():
            await self._write_pool.run_uncancellable(change_and_warm)
        self._writes_since_optimize += 1
        if self._writes_since_optimize >= WRITES_BEFORE_OPTIMIZE:
            self._writes_since_optimize = 0
            retention = timedelta(minutes=self.limits.keep_minutes)
            self._write_pool.submit(lambda: _attempt(lambda: self.index.optimize(retention), "optimized"))


def _attempt(work: Callable[[], object], done: str) -> None:
    try:
        work()
    except Exception as error:
        logger.warning("the index was not %s: %s", done, type(error).__name__)


@contextmanager
def _reading() -> Iterator[None]:
    """Raises an error that asks to try again, if another process removes the version that is being read."""
    try:
        yield
    except NotFoundError as error:
        raise BusyError(str(error)) from error


def _rows(file: IO[bytes], dim: int) -> Iterator[np.ndarray]:
    """Yields latents float32 (dim,) from a file of them."""
    while row := file.read(4 * dim):
        yield np.frombuffer(row, np.float32)
