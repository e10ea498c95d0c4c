"""The retriever and its reranker in threads of their own, so that no request waits long for another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from rabtriever.errors import InputError, TextError
from rabtriever.retriever import Rabtriever
from rabtriever.serving.batching import QueryBatcher, TokenCounts, slices
from rabtriever.serving.errors import APIError
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.workers import WorkerPool

Kind = Literal["query", "document"]
logger = logging.getLogger("rabtriever.serving")
MAX_BATCH_TOKENS = 512  # of queries that are encoded together
INLINE_TOKENIZE_CHARS = 2000  # longer texts are not tokenised on the event loop


class Models:
    """Encodes and reranks off the event loop.

    Queries are encoded in batches, in threads of their own; documents are encoded, and pairs reranked, in another
    thread, a few hundred tokens at a time. Texts of zero tokens raise an InputError.
    """

    def __init__(self, retriever: Rabtriever, metrics: Metrics) -> None:
        self.retriever, self._metrics = retriever, metrics
        self._query_batcher = QueryBatcher(retriever.encode_query, MAX_BATCH_TOKENS, metrics)
        self._llm_pool, self._tokenizer_pool = WorkerPool("llm"), WorkerPool("tokenizer")

    def warm(self) -> None:
        """Loads and compiles what the first requests would have to wait for."""
        self.retriever.encode_query(["warm"])
        try:
            reranker = self.retriever.reranker
        except InputError as error:  # its LLM is not on this machine: searches need none
            logger.warning("without the reranker: %s", error)
            self.retriever.drop_reranker()
        else:
            if reranker is not None:
                reranker.score(["warm"], ["up"], np.zeros((1, 2), np.int64))

    def require_reranker(self, param: str) -> Any:  # noqa: ANN401 - its type is in a package that the server does not import
        """Returns the reranker; raises an APIError, 422, if there is none."""
        if self.retriever.reranker is None:
            raise APIError(422, f"{param}: this retriever has no reranker", param)
        return self.retriever.reranker

    async def count_tokens(self, kind: Kind, texts: Sequence[str]) -> TokenCounts:
        """Returns the sizes of texts, which are added to the metrics."""
        encoder = self.retriever.encoder
        if sum(map(len, texts)) > INLINE_TOKENIZE_CHARS:
            lengths = await self._tokenizer_pool.run(encoder.count_tokens, kind, texts)
        else:
            lengths = encoder.count_tokens(kind, texts)
        budget = encoder.max_tokens(kind)
        counts = TokenCounts([min(n, budget) for n in lengths], sum(n > budget for n in lengths))
        self._metrics.tokens.labels(kind).inc(sum(counts.used))
        self._metrics.truncated.labels(kind).inc(counts.truncated)
        return counts

    async def truncate_documents(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Returns the texts, those of more than ``max_tokens`` tokens truncated to them."""
        return await self._tokenizer_pool.run(self.retriever.encoder.truncate_documents, texts, max_tokens)

    async def encode_queries(self, texts: Sequence[str], counts: TokenCounts) -> tuple[np.ndarray, float]:
        """Returns latents float32 (n, dim), and the seconds that encoding them with others took."""
        cached = [row for row in map(self.retriever.cached_query, texts) if row is not None]
        if len(cached) == len(texts):
            return np.stack(cached), 0.0
        encoded = await asyncio.gather(*map(self._query_batcher, texts, counts.used))
        return np.stack([row for row, _ in encoded]), max(seconds for _, seconds in encoded)

    async def encode_documents(self, texts: Sequence[str], counts: TokenCounts) -> np.ndarray:
        """Returns latents float32 (n, dim); those that are not cached are encoded slice by slice."""
        rows = {text: self.retriever.cached_document(text) for text in texts}
        sizes = {text: size for text, size in zip(texts, counts.used, strict=True) if rows[text] is None}
        missing = list(sizes)
        for part in slices(list(sizes.values())):
            encoded = await self._llm_pool.run(self.retriever.encode_document, missing[part])
            rows |= zip(missing[part], encoded, strict=True)
        return np.stack([rows[text] for text in texts])  # type: ignore[misc]

    async def encode_states(self, texts: Sequence[str], sizes: Sequence[int]) -> np.ndarray:
        """Returns the encoder's embeddings float32 (n, H) of queries of these numbers of tokens, slice by slice.

        They take turns with documents and pairs, not with the queries of searches.
        """
        encode, found = self.retriever.encoder.encode_queries, []
        for part in slices(sizes):
            try:
                found.append(await self._llm_pool.run(encode, texts[part]))
            except TextError as error:
                raise error.at(part.start + error.position) from None
        return np.concatenate(found) if found else np.empty((0, self.retriever.encoder.hidden_size), np.float32)

    async def rerank(
        self, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray, counts: TokenCounts
    ) -> np.ndarray:
        """Returns the reranker's log-odds, float32 (n,), of pairs, int64 (n, 2) positions in queries and documents.

        They are scored slice by slice, grouped by document; ``counts`` are the sizes of the documents.
        """
        score = self.require_reranker("rerank").score
        log_odds = np.empty(len(pairs), np.float32)
        order = np.lexsort((pairs[:, 0], pairs[:, 1]))
        with self._metrics.stages.labels("rerank").time():
            for part in slices([counts.used[document] for document in pairs[order, 1]]):
                rows = order[part]
                log_odds[rows] = (await self._llm_pool.run(score, queries, documents, pairs[rows])).log_odds
        return log_odds

    def close(self) -> None:
        """Ends all threads."""
        for threads in (self._query_batcher, self._llm_pool, self._tokenizer_pool):
            threads.close()
