"""The LLM as a function from token ids to hidden states after its final norm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
from torch import Tensor

from rabtriever.caching import LRUCache
from rabtriever.errors import InputError
from rabtriever.progress import bar

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Pooling = Literal["last", "mean"]
MAX_PREFILL_BYTES = 2**28  # keys and values of a block of documents
MAX_PREFILL_TOKENS = 2**14  # tokens of a block
MAX_KV_CACHE_BYTES = 2**30  # keys and values that are cached for further calls
NOT_FINITE = "makes the LLM's hidden state NaN or infinite; load the LLM in float32"


class NotFiniteError(InputError):
    """A hidden state that is NaN or infinite; ``position`` is the sequence's or the pair's."""

    position: int

    def __init__(self, position: int) -> None:
        super().__init__(f"sequence {position}: {NOT_FINITE}", position=position)


class KVCache(Protocol):
    """Keys and values of documents, in an engine's own format; ``lengths``, int64 (n,), are their tokens."""

    lengths: Tensor

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""

    def split(self) -> list[Any]:
        """Returns a cache per document; each owns its memory."""


class Engine(Protocol):
    """An implementation of the LLM."""

    name: str  # as ``backend=`` names it
    token_budget: int  # of a batch
    kv_bytes_per_token: int

    @property
    def device(self) -> torch.device:
        """Device that it computes on."""

    def encode(self, sequences: Sequence[Sequence[int]], pooling: Pooling) -> Tensor:
        """Returns one state per sequence (:meth:`Backbone.states`): float32 (n, H)."""

    def prefill(self, documents: Sequence[Sequence[int]]) -> Any:  # noqa: ANN401
        """Returns the :class:`KVCache` of document segments."""

    def join(self, caches: Sequence[Any]) -> Any:  # noqa: ANN401
        """Returns several :class:`KVCache` as one, documents in order."""

    def encode_with_prefix(self, cache: Any, rows: Tensor, queries: Sequence[Sequence[int]]) -> Tensor:  # noqa: ANN401
        """Returns the last token's state of each query segment after document ``rows[i]``: float32 (n, H)."""


class Backbone:
    """Runs a causal LLM on token ids and returns hidden states after its final norm.

    lm_head applies to these states directly, and so to a predictor's estimates of them. The engine is created when
    it is first needed; ``kv_cache_bytes`` is memory for keys and values of documents that serve further calls.
    """

    def __init__(
        self, config: PreTrainedConfig, create_engine: Callable[[], Engine], kv_cache_bytes: int = MAX_KV_CACHE_BYTES
    ) -> None:
        self.config, self._create_engine = config.get_text_config(), create_engine
        self.hidden_size = int(self.config.hidden_size)
        # Tokens of all pairs so far: "computed", and "without_cache", the sum of the pairs' lengths.
        self.token_counts: Counter[str] = Counter()
        self._lock = Lock()  # several threads may compute
        self._engine: Engine | None = None
        self._kv_cache: LRUCache[tuple[int, ...], KVCache] = LRUCache(kv_cache_bytes)

    @property
    def engine(self) -> Engine:
        """The engine, created at the first access."""
        with self._lock:
            if self._engine is None:
                self._engine = self._create_engine()
        return self._engine

    @property
    def device(self) -> torch.device:
        """Device that the engine computes on."""
        return self.engine.device

    @torch.inference_mode()
    def states(
        self,
        sequences: Sequence[Sequence[int]],
        pooling: Pooling = "last",
        progress: str | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Computes one state per sequence of token ids, in the order given: float32 (n, H), on the CPU.

        Args:
            sequences: Token ids, each at least one.
            pooling: ``last``: the last token's state; ``mean``: the mean over all but the first token, which is an
                attention sink (a sequence of one token keeps it).
            progress: Label of the progress bar on stderr; None shows none.
            batch_size: Maximum number of sequences in a batch, beside the engine's token budget.

        Raises:
            NotFiniteError: a state is NaN or infinite.
        """
        result = torch.empty(len(sequences), self.hidden_size)
        lengths = [len(sequence) for sequence in sequences]
        with bar(len(sequences), progress, shown=progress is not None) as done:
            for batch in token_batches(lengths, self.engine.token_budget, batch_size):
                result[batch] = self.engine.encode([sequences[i] for i in batch], pooling).cpu()
                done.update(len(batch))
        _check_finite(result, torch.arange(len(result)))
        return result

    @torch.inference_mode()
    def pair_states(
        self,
        documents: Sequence[Sequence[int]],
        queries: Sequence[Sequence[int]],
        pairs: Tensor,
        progress: str | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Computes the last token's state of ``documents[d] + queries[q]`` for each pair (q, d), int64 (n, 2).

        Each document is computed once; its keys and values are cached for further calls.

        Yields:
            Batch by batch, rows of ``pairs``, int64 (b,), and their states, float32 (b, H), on the CPU.

        Raises:
            NotFiniteError: a state is NaN or infinite; its position is the pair's.
        """
        used, document_of = torch.unique(pairs[:, 1], return_inverse=True)
        segments = [tuple(documents[d]) for d in used.tolist()]
        remaining_bytes = self._kv_cache.max_weight
        # A block's documents are computed and used together.
        block_tokens = max(1, min(MAX_PREFILL_BYTES // self.engine.kv_bytes_per_token, MAX_PREFILL_TOKENS))
        with bar(len(pairs), progress, shown=progress is not None) as done:
            for block in token_batches(list(map(len, segments)), block_tokens):
                cache = self._document_cache([segments[i] for i in block], remaining_bytes)
                remaining_bytes -= self.engine.kv_bytes_per_token * int(cache.lengths.sum())
                row_of_document = torch.full((len(used),), -1)
                row_of_document[block] = torch.arange(len(block))
                selected = (row_of_document[document_of] >= 0).nonzero().flatten()
                # Documents of similar length side by side: the caches of a batch are then padded little.
                lengths = cache.lengths.cpu()[row_of_document[document_of[selected]]]
                selected = selected[torch.argsort(lengths, stable=True)]
                sizes = [len(queries[q]) for q in pairs[selected, 0].tolist()]
                self._count(computed=sum(sizes), without_cache=sum(sizes) + int(lengths.sum()))
                # An engine may gather a copy of the cache for each query of a batch.
                longest = max(1, int(cache.lengths.max())) * self.engine.kv_bytes_per_token
                for batch in token_batches(sizes, self.engine.token_budget, max(1, MAX_PREFILL_BYTES // longest)):
                    rows = selected[batch]
                    asked = [queries[q] for q in pairs[rows, 0].tolist()]
                    states = self.engine.encode_with_prefix(cache, row_of_document[document_of[rows]], asked).cpu()
                    _check_finite(states, rows)
                    yield rows, states
                    done.update(len(batch))

    def check_length(self, tokens: int) -> None:
        """Raises InputError if prompts of ``tokens`` exceed the LLM's positions or its sliding attention window."""
        limit = min(sliding_window(self.config) or tokens, self.config.max_position_embeddings)
        if tokens > limit:
            advice = "lower document_tokens or query_tokens"
            raise InputError(f"prompt: up to {tokens} tokens, the LLM reads {limit}; {advice}")

    def _document_cache(self, documents: Sequence[tuple[int, ...]], cacheable_bytes: int) -> KVCache:
        """Returns the keys and values of documents, computing those that are not cached.

        At most ``cacheable_bytes`` of them are cached: in a call larger than the cache, the last documents would drive
        out the first, and none would serve the next call.
        """
        caches = [self._kv_cache.get(document) for document in documents]
        missing = [document for document, cache in zip(documents, caches, strict=True) if cache is None]
        if not missing:
            return cast(KVCache, self.engine.join(caches))
        prefilled: KVCache = self.engine.prefill(missing)
        self._count(computed=sum(map(len, missing)))
        all_new = len(missing) == len(documents)
        if all_new and cacheable_bytes <= 0:
            return prefilled
        parts: Iterator[KVCache] = iter(prefilled.split())
        whole = [next(parts) if cache is None else cache for cache in caches]
        for document, cache in zip(documents, whole, strict=True):
            cacheable_bytes -= cache.nbytes
            if cacheable_bytes >= 0:
                self._kv_cache.put(document, cache, cache.nbytes)
        return prefilled if all_new else cast(KVCache, self.engine.join(whole))

    def _count(self, **tokens: int) -> None:
        with self._lock:
            self.token_counts.update(tokens)


def sliding_window(config: PreTrainedConfig) -> int | None:
    """Returns the width of an LLM's sliding attention window in tokens; None if every layer attends to all."""
    config = config.get_text_config()
    windowed = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    return getattr(config, "sliding_window", None) if windowed else None


def token_batches(lengths: Sequence[int], budget: int, max_size: int | None = None) -> Iterator[list[int]]:
    """Yields positions in batches, longest first (so that memory peaks at once).

    A batch has at most ``budget`` tokens, padding included, and ``max_size`` sequences; a sequence longer than the
    budget is a batch of its own.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and ((len(batch) + 1) * lengths[batch[0]] > budget or len(batch) == max_size):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def _check_finite(states: Tensor, positions: Tensor) -> None:
    bad = positions[~states.isfinite().all(dim=1)]
    if len(bad):
        raise NotFiniteError(int(bad[0]))
