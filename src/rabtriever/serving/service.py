"""The service behind the routes: an index and its models, shared by all requests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import IO, Any, NamedTuple, cast

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import BusyError, NotFoundError
from rabtriever.index import Hit, Index
from rabtriever.index.search import RerankPlan, SearchOptions, cut_hits
from rabtriever.retriever import Rabtriever
from rabtriever.serving.batching import ScanBatcher, TokenCounts
from rabtriever.serving.config import ServerLimits
from rabtriever.serving.filters import validate_filter
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.models import Kind, Models
from rabtriever.serving.workers import ConcurrencyLimiter, WorkerPool
from rabtriever.serving.writer import IndexWriter

DOCUMENTS_PER_BATCH = 256  # of an upload that are parsed together


@dataclass
class SearchResult:
    """Hits of a search, and how they were found.

    Attributes:
        hits: Of each query, best first.
        counts: Sizes of the queries.
        milliseconds: Of each stage.
    """

    hits: list[list[Hit]]
    counts: TokenCounts
    milliseconds: dict[str, float]


class Scored(NamedTuple):
    """Scores of a request's documents.

    Attributes:
        log_odds: float32 (n,).
        ranking: ``{"corpus_id", "score"}`` of each, the most probable first (:meth:`Calibration.rank`).
        tokens: Number of tokens of the query and the documents.
    """

    log_odds: np.ndarray
    ranking: list[dict[str, int | float]]
    tokens: int


class SearchService:
    """Searches, scores and writes for many requests at once, each kind up to a number that may wait.

    The library's errors pass through; :mod:`rabtriever.serving.errors` says how they are answered.

    Args:
        index: The index, opened to write.
        limits: Bounds of requests.
        metrics: Where counts and times are exported.
    """

    def __init__(self, index: Index, limits: ServerLimits, metrics: Metrics) -> None:
        self.index, self.limits = index, limits
        self.retriever = cast(Rabtriever, index.retriever)
        index.write_timeout = limits.timeout / 2
        self._searches = ConcurrencyLimiter("search", limits.searches, metrics)
        self._reranks = ConcurrencyLimiter("rerank", limits.reranks, metrics)
        self._writes = ConcurrencyLimiter("write", limits.writes, metrics)
        self._models = Models(self.retriever, metrics)
        self._scan_batcher = ScanBatcher(index.retrieve, metrics)
        self._writer, self._table_pool = IndexWriter(index, limits.keep_minutes, metrics), WorkerPool("table")

    def warm(self) -> None:
        """Loads and compiles what the first requests would have to wait for."""
        self.index.warm()
        self._models.warm()

    async def search(self, texts: Sequence[str], options: SearchOptions) -> SearchResult:
        """Finds hits as :meth:`rabtriever.index.Index.search` does.

        Raises:
            APIError: 429, too many searches; 422, there is no reranker.
            InputError: a query of zero tokens, or a condition that cannot be read.
        """
        started = perf_counter()
        reranker: Any = None if options.rerank is None else self._models.require_reranker("rerank")
        with self._searches.acquire(len(texts)):
            if options.where is not None:
                validate_filter(options.where)
            counts = await self._models.count_tokens("query", texts)
            vectors, encode = await self._models.encode_queries(texts, counts)
            with _reading():
                hits, scan = await self._scan_batcher(texts, vectors, options)
        stages = {"queue": perf_counter() - started - encode - scan, "encode": encode, "scan": scan}
        if options.rerank is not None:
            started = perf_counter()
            plan = RerankPlan(texts, hits, options.rerank)
            if len(plan.pairs):
                with self._reranks.acquire():
                    sizes = await self._models.count_tokens("document", plan.documents)
                    log_odds = await self._models.rerank(plan.queries, plan.documents, plan.pairs, sizes)
                hits = plan.apply(log_odds, reranker.calibration, self.retriever.calibration)
            stages["rerank"] = perf_counter() - started
        milliseconds = {stage: 1000 * seconds for stage, seconds in stages.items()}
        return SearchResult(cut_hits(hits, options), counts, milliseconds)

    async def score(self, query: str, documents: Sequence[str], scorer: str, max_tokens: int = 0) -> Scored:
        """Scores documents that a request brings.

        Args:
            query: The query.
            documents: n texts.
            scorer: ``reranker`` or ``retriever``.
            max_tokens: Tokens to which documents are truncated, if fewer than the model's own budget; 0: none.

        Raises:
            APIError: 429, too many reranks; 422, there is no reranker.
            InputError: a text of zero tokens.
        """
        models = self._models
        with self._reranks.acquire():
            if max_tokens:
                documents = await models.truncate_documents(documents, max_tokens)
            different = list(dict.fromkeys(documents))
            row_of = {text: row for row, text in enumerate(different)}
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
        return Scored(log_odds[rows], calibration.rank(log_odds[rows]), tokens)

    async def embed(self, kind: Kind, texts: Sequence[str]) -> tuple[np.ndarray, TokenCounts]:
        """Returns the latents float32 (n, dim) of queries or documents, and their sizes.

        Raises:
            APIError: 429, too many reranks and embeddings.
            InputError: a text of zero tokens.
        """
        with self._reranks.acquire():
            counts = await self._models.count_tokens(kind, texts)
            if kind == "query":
                return (await self._models.encode_queries(texts, counts))[0], counts
            return await self._models.encode_documents(texts, counts), counts

    async def write(self, documents: Callable[[], Iterable[Document]], replace: bool) -> int:
        """Adds documents in one transaction, visible when this returns.

        Args:
            documents: Returns them, each time it is called.
            replace: Whether they may replace those of the same ids.

        Returns:
            Their number.

        Raises:
            APIError: 429, too many writes.
            InputError: a text of zero tokens.
            ConflictError: an id that exists already.
            BusyError: another process is writing.
            StorageError: no space.
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
            await self._writer.run(add, documents(), _rows(latents, self.retriever.dim))
        return count

    async def get(self, identifier: str) -> Document:
        """Returns a document.

        Raises:
            NotFoundError: none has this id.
        """
        with _reading():
            found = await self._table_pool.run(self.index.get, [identifier])
        if not found:
            raise NotFoundError("no document of this id", param="id")
        return found[0]

    async def delete(self, identifier: str) -> None:
        """Removes a document.

        Raises:
            APIError: 429, too many writes.
            NotFoundError: none has this id.
            BusyError: another process is writing.
        """
        with self._writes.acquire():
            await self._writer.run(self.index.delete, [identifier])

    async def count(self) -> int:
        """Returns the number of documents in the index."""
        return await self._table_pool.run(len, self.index)

    async def index_info(self) -> dict[str, Any]:
        """Returns the number of documents and the version of the index."""
        info = await self._table_pool.run(self.index.info)
        return {name: info[name] for name in ("documents", "version")}

    def close(self) -> None:
        """Ends all threads."""
        for threads in (self._models, self._scan_batcher, self._writer, self._table_pool):
            threads.close()


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
