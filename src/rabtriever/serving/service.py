"""What the routes ask for, done off the event loop: encode, scan, judge, write."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from time import perf_counter
from typing import IO, Any

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import BusyError, InputError
from rabtriever.index import Hit, Index
from rabtriever.index.hits import reranked
from rabtriever.serving.batching import ConcurrencyLimiter, QueryBatcher, WorkerPool, timed
from rabtriever.serving.config import ServerLimits
from rabtriever.serving.errors import APIError
from rabtriever.serving.filters import validate_filter
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.texts import TokenCounts, slices

logger = logging.getLogger("rabtriever.serving")
BATCH = 512  # tokens of queries that are encoded together
LATENTS = 100_000  # documents whose latents are remembered
CACHES = 2**28  # bytes of document caches that the reranker keeps
THEIRS = ("where", "hybrid", "query", "document", "add", "delete")  # how messages of a client's faults begin
LONG = 2000  # characters from which on a text is not tokenised on the event loop
CHANGES = 100  # of the index, before its small files are joined
UPLOADED = 256  # documents of an upload that are parsed together


@dataclass
class Found:
    """A search's hits, query by query, and how they came about.

    Attributes:
        hits: Of each query, best first.
        queries: Their sizes.
        milliseconds: Of each stage.
    """

    hits: list[list[Hit]]
    queries: TokenCounts
    milliseconds: dict[str, float] = field(default_factory=dict)


class SearchService:
    """An index and its models, shared by requests.

    Queries are encoded in one thread, the reranker and documents are read in another, a few hundred tokens at a time,
    so that neither waits long for the other; scans and writes have threads of their own.

    Args:
        index: The index, opened to write.
        limits: How much may be asked for.
        metrics: What is told.
    """

    def __init__(self, index: Index, limits: ServerLimits, metrics: Metrics) -> None:
        self.index, self.limits, self.metrics = index, limits, metrics
        self.retriever, self.teacher = index.retriever, index.retriever.teacher
        self.retriever.known["document"].capacity = LATENTS
        self.teacher.backbone.kept.capacity = CACHES
        index.wait = limits.timeout / 2
        self.searches = ConcurrencyLimiter("search", limits.searches, metrics)
        self.reranks = ConcurrencyLimiter("rerank", limits.reranks, metrics)
        self.writes = ConcurrencyLimiter("write", limits.writes, metrics)
        self._encoder = QueryBatcher(self.retriever.encode_query, BATCH, metrics)
        self._reading, self._counting = WorkerPool("read", 2), WorkerPool("count")
        self._judging, self._writing = WorkerPool("judge"), WorkerPool("write")
        self._changes, self._tidying = 0, set[asyncio.Task[None]]()

    def warm(self) -> None:
        """Load and compile what the first requests would have to wait for."""
        self.index.warm()
        self.teacher.predict([("warm", "up")])
        self.retriever.encode_query(["warm"])

    async def search(
        self, texts: Sequence[str], k: int, where: str | None, mode: str, hybrid: str | None, rerank: int | None
    ) -> Found:
        """As :meth:`rabtriever.index.Index.search`.

        Raises:
            APIError: too many searches, or a query or filter that cannot be read.
        """
        started = perf_counter()
        with self.searches.take(len(texts)):
            if where is not None:
                with self._told("where"):
                    validate_filter(where)
            sizes = await self.sizes("query", texts)
            vectors, encode = await self._queries(texts, sizes)
            find, depth = timed(self.index.find), max(k, rerank or 0)
            with self._told("where"):
                hits, scan = await self._reading.run(find, texts, vectors, depth, where, mode, hybrid)
        self.metrics.stages.labels("scan").observe(scan)
        stages = {"queue": perf_counter() - started - encode - scan, "encode": encode, "scan": scan}
        found = Found(hits, sizes, {stage: 1000 * seconds for stage, seconds in stages.items()})
        if rerank is not None:
            started = perf_counter()
            with self.reranks.take():
                for i, query in enumerate(texts):
                    if hits[i]:
                        log_odds = await self._judge(query, [hit.text for hit in hits[i][:rerank]])
                        hits[i] = reranked(hits[i], log_odds, self.teacher.calibration)
            found.milliseconds["rerank"] = 1000 * (perf_counter() - started)
        found.hits = [hits_of_query[:k] for hits_of_query in hits]
        return found

    async def score(
        self, query: str, documents: Sequence[str], reranker: bool, most: int = 0
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Documents that a request brings, judged by the reranker or the retriever.

        Args:
            query: The query.
            documents: n texts.
            reranker: Whether the reranker judges.
            most: Tokens of a document that are read, if fewer than the prompt allows; 0: as many as it allows.

        Returns:
            Log-odds float32 (n,), probabilities float64 (n,), and the tokens of the query and the documents.

        Raises:
            APIError: too many reranks, or a text without tokens.
        """
        with self.reranks.take():
            if most:
                with self._told("document"):
                    documents = await self._counting.run(self.teacher.prompt.document_heads, documents, most)
            asked, given = await self.sizes("query", [query]), await self.sizes("document", documents)
            if reranker:
                log_odds = await self._judge(query, documents, given)
                calibration = self.teacher.calibration
            else:
                vectors, _ = await self._queries([query], asked)
                latents = await self._latents(documents, given)
                log_odds = self.retriever.similarity(vectors, latents)[0]
                calibration = self.retriever.calibration
        return log_odds, calibration.probability(log_odds), sum(asked.kept) + sum(given.kept)

    async def embed(self, side: str, texts: Sequence[str]) -> tuple[np.ndarray, TokenCounts]:
        """What the folded score needs of queries or documents: float32 (n, dim)."""
        with self.reranks.take():
            sizes = await self.sizes(side, texts)
            if side == "query":
                return (await self._queries(texts, sizes))[0], sizes
            return await self._latents(texts, sizes), sizes

    async def write(self, documents: Callable[[], Iterable[Document]], replace: bool) -> int:
        """Add documents in one transaction, visible when this returns.

        Args:
            documents: Gives them, each time it is called.
            replace: Whether they may take the place of those of the same ids.

        Returns:
            How many.

        Raises:
            APIError: too many writes, an id that is there already, or a text without tokens.
        """
        with self.writes.take(), tempfile.TemporaryFile() as rows:
            stream, count = iter(documents()), 0
            while batch := await self._counting.run(lambda: list(islice(stream, UPLOADED))):
                texts = [document.content for document in batch]
                rows.write((await self._latents(texts, await self.sizes("document", texts))).tobytes())
                count += len(batch)
            rows.seek(0)
            await self._change(self._write, documents(), _each(rows, self.retriever.dim), replace)
        return count

    async def get(self, identifier: str) -> Document:
        """A document.

        Raises:
            APIError: 404, there is none of this id.
        """
        with self._told("id"):
            found = await self._reading.run(self.index.get, [identifier])
        if not found:
            raise APIError(404, "no document of this id", "id")
        return found[0]

    async def delete(self, identifier: str) -> None:
        """Remove a document.

        Raises:
            APIError: 404, there is none of this id.
        """
        with self.writes.take():
            await self._change(self.index.delete, [identifier])

    async def count(self) -> int:
        """How many documents there are."""
        return await self._reading.run(len, self.index)

    async def sizes(self, side: str, texts: Sequence[str]) -> TokenCounts:
        """How many tokens texts have; metrics hear of it.

        Raises:
            APIError: 422, a text without tokens.
        """
        prompt = self.teacher.prompt
        with self._told(side):
            if sum(map(len, texts)) > LONG:
                lengths = await self._counting.run(prompt.lengths, side, texts)
            else:
                lengths = prompt.lengths(side, texts)
        sizes = TokenCounts(lengths, getattr(prompt.template, f"{side}_tokens"))
        self.metrics.tokens.labels(side).inc(sum(sizes.kept))
        self.metrics.cut.labels(side).inc(sizes.cut)
        return sizes

    def close(self) -> None:
        """End all threads."""
        for lane in (self._encoder, self._reading, self._counting, self._judging, self._writing):
            lane.close()

    async def _queries(self, texts: Sequence[str], sizes: TokenCounts) -> tuple[np.ndarray, float]:
        """Encodings float32 (n, dim), and the seconds that the LLM read them with others."""
        known = self.retriever.known["query"]
        rows = [known.get(text) for text in texts]
        if all(row is not None for row in rows):
            return np.stack(rows), 0.0  # type: ignore[arg-type]
        found = await asyncio.gather(*map(self._encoder, texts, sizes.kept))
        return np.stack([row for row, _ in found]), max(seconds for _, seconds in found)

    async def _judge(self, query: str, documents: Sequence[str], sizes: TokenCounts | None = None) -> np.ndarray:
        """The reranker's log-odds, float32 (n,), a slice after the other; equal texts have equal ones."""
        sizes = sizes or await self.sizes("document", documents)
        different = dict(zip(documents, sizes.kept, strict=True))
        found: list[float] = []
        with self.metrics.stage("rerank"):
            for piece in slices(list(different), list(different.values())):
                found += (await self._judging.run(self.teacher.log_odds, [query], piece))[0].tolist()
        log_odds = dict(zip(different, found, strict=True))
        return np.array([log_odds[text] for text in documents], np.float32)

    async def _latents(self, texts: Sequence[str], sizes: TokenCounts) -> np.ndarray:
        """Latents float32 (n, dim), those that are new a slice after the other."""
        known = self.retriever.known["document"]
        found = {text: known.get(text) for text in texts}
        new = {text: size for text, size in zip(texts, sizes.kept, strict=True) if found[text] is None}
        for piece in slices(list(new), list(new.values())):
            rows = await self._judging.run(self.retriever.encode_document, piece)
            found.update(zip(piece, rows, strict=True))
        return np.stack([found[text] for text in texts])  # type: ignore[misc]

    async def _change(self, work: Callable[..., None], *args: Any) -> None:  # noqa: ANN401
        """Change the index; what has begun is done, whoever still waits for it."""

        def change() -> None:
            work(*args)
            self._changes += 1
            try:
                self.index.warm()
            except Exception as error:  # it is done all the same; the next search will try again
                logger.warning("the index was not opened after a change: %s", type(error).__name__)

        with self._told("id"), self.metrics.stage("write"):
            await self._writing.run_whole(change)
        if self._changes >= CHANGES:
            self._changes = 0
            task = asyncio.create_task(self._tidy())
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)

    def _write(self, documents: Iterable[Document], rows: Iterable[np.ndarray], replace: bool) -> None:
        (self.index.upsert if replace else self.index.add)(documents, rows)

    async def _tidy(self) -> None:
        try:
            await self._writing.run(self.index.optimize, timedelta(minutes=self.limits.keep_minutes))
        except Exception as error:  # it is tried again after further changes
            logger.warning("the index was not tidied: %s", type(error).__name__)

    @contextmanager
    def _told(self, param: str) -> Iterator[None]:
        """Errors of the package below, as refusals: what the client did wrong, or what it may try again.

        Args:
            param: The field that is wrong where a message does not tell.

        Raises:
            APIError: instead of an ``InputError`` that is the client's.
        """
        try:
            yield
        except BusyError:
            raise APIError(503, "another process is changing the index; try again later", retry=1) from None
        except InputError as error:
            message = str(error)
            if message.startswith(f"{self.index.store.uri}: ") or not message.startswith(THEIRS):
                raise  # the index is damaged or its disk full: not the client's fault
            if message.startswith("delete: "):
                raise APIError(404, "no document of this id", "id") from None
            if message.startswith("add: document id"):
                raise APIError(409, message.removeprefix("add: "), "id") from None
            raise APIError(422, message, "mode" if message.startswith("hybrid") else param) from None


def _each(rows: IO[bytes], dim: int) -> Iterator[np.ndarray]:
    """Latents float32 (dim,) from a file of them."""
    while row := rows.read(4 * dim):
        yield np.frombuffer(row, np.float32)
