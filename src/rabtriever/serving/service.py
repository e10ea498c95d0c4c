"""The models and the index behind the routes: each stage runs off the event loop, in threads of its own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import NotFoundError
from rabtriever.index import Hit, Index
from rabtriever.index.search import RerankPlan, SearchOptions, cut_hits
from rabtriever.serving.batching import QueryBatcher, ScanBatcher, TokenCounts, slices
from rabtriever.serving.config import ServerLimits
from rabtriever.serving.errors import APIError
from rabtriever.serving.filters import validate_filter
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.workers import ConcurrencyLimiter, WorkerPool
from rabtriever.serving.writer import IndexWriter

Kind = Literal["query", "document"]
MAX_BATCH_TOKENS = 512  # of queries that are encoded together
INLINE_TOKENIZE_CHARS = 2000  # longer texts are not tokenised on the event loop
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
    """An index and its models, shared by requests.

    Queries are encoded in threads of their own; the reranker and documents are read in another, a few hundred tokens
    at a time, so that no request waits long for another; scans and writes have their own threads, too. The library's
    errors pass through; :mod:`rabtriever.serving.errors` says how they are answered.

    Args:
        index: The index, opened to write.
        limits: Bounds of requests.
        metrics: Where counts and times are exported.
    """

    def __init__(self, index: Index, limits: ServerLimits, metrics: Metrics) -> None:
        self.index, self.limits, self.metrics = index, limits, metrics
        self.retriever, self.reranker = index.retriever, index.retriever.reranker
        index.write_timeout = limits.timeout / 2
        self.searches = ConcurrencyLimiter("search", limits.searches, metrics)
        self.reranks = ConcurrencyLimiter("rerank", limits.reranks, metrics)
        self.writes = ConcurrencyLimiter("write", limits.writes, metrics)
        self._query_batcher = QueryBatcher(self.retriever.encode_query, MAX_BATCH_TOKENS, metrics)
        self._scan_batcher = ScanBatcher(index.retrieve, metrics)
        self._writer = IndexWriter(index, limits.keep_minutes, metrics)
        self._llm_pool, self._tokenizer_pool = WorkerPool("llm"), WorkerPool("tokenizer")
        self._table_pool = WorkerPool("table")

    def warm(self) -> None:
        """Loads and compiles what the first requests would have to wait for."""
        self.index.warm()
        self.retriever.encode_query(["warm"])
        if self.reranker is not None:
            self.reranker.score(["warm"], ["up"], np.zeros((1, 2), np.int64))

    async def search(self, texts: Sequence[str], options: SearchOptions) -> SearchResult:
        """Finds hits as :meth:`rabtriever.index.Index.search` does.

        Raises:
            APIError: 429, too many searches.
            InputError: a query of zero tokens, or a condition that cannot be read.
        """
        started = perf_counter()
        with self.searches.acquire(len(texts)):
            if options.where is not None:
                validate_filter(options.where)
            counts = await self.count_tokens("query", texts)
            vectors, encode = await self._query_latents(texts, counts)
            hits, scan = await self._scan_batcher(texts, vectors, options)
        stages = {"queue": perf_counter() - started - encode - scan, "encode": encode, "scan": scan}
        if options.rerank is not None:
            started = perf_counter()
            with self.reranks.acquire():
                plan = RerankPlan(texts, hits, options.rerank)
                log_odds = await self._rerank(plan.queries, plan.documents, plan.pairs, "rerank")
                hits = plan.apply(log_odds, self.reranker.calibration, self.retriever.calibration)
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
            APIError: 429, too many reranks.
            InputError: a text of zero tokens.
        """
        with self.reranks.acquire():
            if max_tokens:
                truncate = self.retriever.encoder.truncate
                documents = await self._tokenizer_pool.run(truncate, "document", documents, max_tokens)
            of_query = await self.count_tokens("query", [query])
            of_documents = await self.count_tokens("document", documents)
            if scorer == "reranker":
                rows = {text: row for row, text in enumerate(dict.fromkeys(documents))}
                pairs = np.array([(0, row) for row in rows.values()])
                different = await self._rerank([query], list(rows), pairs, "model")
                log_odds, calibration = different[[rows[text] for text in documents]], self.reranker.calibration
            else:
                vectors, _ = await self._query_latents([query], of_query)
                latents = await self._document_latents(documents, of_documents)
                log_odds, calibration = self.retriever.similarity(vectors, latents)[0], self.retriever.calibration
        tokens = sum(of_query.used) + sum(of_documents.used)
        return Scored(log_odds, calibration.rank(log_odds), tokens)

    async def embed(self, kind: Kind, texts: Sequence[str]) -> tuple[np.ndarray, TokenCounts]:
        """Returns the latents float32 (n, dim) of queries or documents, and their sizes."""
        with self.reranks.acquire():
            counts = await self.count_tokens(kind, texts)
            if kind == "query":
                return (await self._query_latents(texts, counts))[0], counts
            return await self._document_latents(texts, counts), counts

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
        with self.writes.acquire(), tempfile.TemporaryFile() as latents:
            stream, count = iter(documents()), 0
            while batch := await self._tokenizer_pool.run(lambda: list(islice(stream, DOCUMENTS_PER_BATCH))):
                texts = [document.content for document in batch]
                rows = await self._document_latents(texts, await self.count_tokens("document", texts))
                latents.write(rows.tobytes())
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
        with self.writes.acquire():
            await self._writer.run(self.index.delete, [identifier])

    async def count(self) -> int:
        """Returns the number of documents in the index."""
        return await self._table_pool.run(len, self.index)

    async def index_info(self) -> dict[str, Any]:
        """Returns the number of documents and the version of the index."""
        info = await self._table_pool.run(self.index.info)
        return {name: info[name] for name in ("documents", "version")}

    async def count_tokens(self, kind: Kind, texts: Sequence[str]) -> TokenCounts:
        """Returns the sizes of texts, which the metrics count.

        Raises:
            InputError: a text of zero tokens.
        """
        encoder = self.retriever.encoder
        if sum(map(len, texts)) > INLINE_TOKENIZE_CHARS:
            lengths = await self._tokenizer_pool.run(encoder.count_tokens, kind, texts)
        else:
            lengths = encoder.count_tokens(kind, texts)
        counts = TokenCounts(lengths, encoder.max_tokens(kind))
        self.metrics.tokens.labels(kind).inc(sum(counts.used))
        self.metrics.truncated.labels(kind).inc(counts.truncated)
        return counts

    def close(self) -> None:
        """Ends all threads."""
        pools = (self._llm_pool, self._tokenizer_pool, self._table_pool)
        for threads in (self._query_batcher, self._scan_batcher, self._writer, *pools):
            threads.close()

    async def _query_latents(self, texts: Sequence[str], counts: TokenCounts) -> tuple[np.ndarray, float]:
        """Returns latents float32 (n, dim), and the seconds that encoding them with others took."""
        cached = [row for row in map(self.retriever.cached_query, texts) if row is not None]
        if len(cached) == len(texts):
            return np.stack(cached), 0.0
        encoded = await asyncio.gather(*map(self._query_batcher, texts, counts.used))
        return np.stack([row for row, _ in encoded]), max(seconds for _, seconds in encoded)

    async def _document_latents(self, texts: Sequence[str], counts: TokenCounts) -> np.ndarray:
        """Returns latents float32 (n, dim); those that are not cached are encoded slice by slice."""
        rows = {text: self.retriever.cached_document(text) for text in texts}
        sizes = {text: size for text, size in zip(texts, counts.used, strict=True) if rows[text] is None}
        missing = list(sizes)
        for part in slices(list(sizes.values())):
            encoded = await self._llm_pool.run(self.retriever.encode_document, missing[part])
            rows |= zip(missing[part], encoded, strict=True)
        return np.stack([rows[text] for text in texts])  # type: ignore[misc]

    async def _rerank(
        self, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray, param: str
    ) -> np.ndarray:
        """Returns the reranker's log-odds of pairs, float32 (n,), scored slice by slice, grouped by document."""
        if self.reranker is None:
            raise APIError(422, "the retriever has no reranker", param)
        log_odds = np.empty(len(pairs), np.float32)
        if len(pairs):
            counts = await self.count_tokens("document", documents)
            order = np.lexsort((pairs[:, 0], pairs[:, 1]))
            with self.metrics.stage("rerank"):
                for part in slices(np.array(counts.used)[pairs[order, 1]].tolist()):
                    rows = order[part]
                    scores = await self._llm_pool.run(self.reranker.score, queries, documents, pairs[rows])
                    log_odds[rows] = scores.log_odds
        return log_odds


def _rows(file: IO[bytes], dim: int) -> Iterator[np.ndarray]:
    """Yields latents float32 (dim,) from a file of them."""
    while row := file.read(4 * dim):
        yield np.frombuffer(row, np.float32)
