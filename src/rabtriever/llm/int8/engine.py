"""Llama-like LLMs on a CPU: int8 matrix products, texts packed end to end without padding, every row by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rabtriever.llm.int8.forward import Batch, Layers, forward
from rabtriever.llm.int8.gang import share_rows
from rabtriever.llm.int8.matmul import TILE_ROWS
from rabtriever.llm.int8.prefixes import SharedPrefix, compute_prefix
from rabtriever.llm.int8.rotation import hadamard_block_size, orthogonal
from rabtriever.llm.int8.weight_cache import WeightCache
from rabtriever.llm.int8.weights import Int8Weights, convert

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rabtriever.llm.backbone import Pooling

NO_BIAS = np.empty((0, 0), np.float32)
MIN_POSITIONS = 1024  # whose cosines and sines are computed at the start


@dataclass
class PackedKVCache:
    """Keys and values of texts; see :class:`rabtriever.llm.backbone.KVCache`.

    Attributes:
        rows: uint16 (layers, tokens, 2 * key heads * head size), float16's bits.
        starts: int64 (n,), where each text begins.
        lengths: int64 (n,), its tokens.
    """

    rows: np.ndarray
    starts: Tensor
    lengths: Tensor

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.rows.nbytes

    def split(self) -> list[PackedKVCache]:
        """Returns a cache per document; each owns its memory."""
        spans = zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        return [
            PackedKVCache(self.rows[:, start : start + n].copy(), torch.tensor([0]), torch.tensor([n]))
            for start, n in spans
        ]


class Int8Engine:
    """Computes int8 products and float32 between them; see :class:`rabtriever.llm.backbone.Engine`.

    Args:
        weights: The LLM, converted.
        prefixes: First tokens of texts, read in float32 once for all texts.
    """

    name = "int8"
    device = torch.device("cpu")
    token_budget = 1024

    def __init__(self, weights: Int8Weights, prefixes: Sequence[SharedPrefix] = ()) -> None:
        shape, hidden_size = weights.shape, len(weights.final_norm)
        self.weights = weights
        self.kv_width = 2 * shape.key_heads * shape.head_size
        self.kv_bytes_per_token = 2 * self.kv_width * len(weights.bias)
        self.embeddings = torch.from_numpy(weights.embeddings)
        if self.embeddings.dtype != torch.float32:
            self.embeddings = self.embeddings.view(getattr(torch, shape.embedding_dtype))
        rotation = orthogonal(hidden_size)
        # float64, since float32's rounding would depend on how many rows there are, and a code may hang on it.
        self.rotation = rotation.double()
        self.inverse_rotation = rotation.T * torch.from_numpy(weights.final_norm)
        self.rope = self._rope(MIN_POSITIONS)
        block, epsilon = hadamard_block_size(shape.units), np.float32(shape.epsilon)
        self.layers = Layers(
            *(weights.qkv, weights.out, weights.gate_up, weights.down, weights.bias, weights.norms),
            shape=(shape.heads, shape.key_heads, shape.head_size, shape.units, block, epsilon),
        )
        none = SharedPrefix((), np.empty((len(weights.bias), 0, self.kv_width), np.uint16), torch.empty(0, hidden_size))
        self.shared_prefixes = [*sorted(prefixes, key=lambda prefix: -len(prefix.tokens)), none]

    @classmethod
    def create(
        cls,
        get_model: Callable[[], PreTrainedModel],
        prefixes: Sequence[Sequence[int]] = (),
        cache: WeightCache[Int8Weights] | None = None,
    ) -> Int8Engine:
        """Makes the engine of an LLM, from the cache if it is there; the model is then not asked for.

        Args:
            get_model: Returns a Llama-like LLM on the CPU.
            prefixes: Token ids that texts will begin with.
            cache: Of this LLM; None caches nothing.
        """
        weights = cache.load() if cache else None
        if weights is None:
            weights = convert(get_model())
            weights = cache.save(weights) if cache else weights
        distinct = sorted({tuple(prefix) for prefix in prefixes if prefix})
        return cls(weights, [_cached_prefix(get_model, tokens, cache) for tokens in distinct])

    @torch.inference_mode()
    def encode(self, sequences: Sequence[Sequence[int]], pooling: Pooling = "last") -> Tensor:
        """Returns one state per sequence: float32 (n, H)."""
        prefixes, rest = self._split(sequences)
        starts = np.cumsum([0, *(len(prefix.tokens) for prefix in self.shared_prefixes)])
        past = PackedKVCache(
            np.concatenate([prefix.rows for prefix in self.shared_prefixes], axis=1),
            torch.tensor([starts[self.shared_prefixes.index(prefix)] for prefix in prefixes]),
            torch.tensor([len(prefix.tokens) for prefix in prefixes]),
        )
        hidden, ends = self._forward(rest, past, pooling == "last")
        if pooling == "last":
            return hidden @ self.inverse_rotation
        sums = torch.from_numpy(np.add.reduceat(hidden.numpy(), ends[:-1]))
        whole = torch.tensor([not prefix.tokens and len(text) > 1 for prefix, text in zip(prefixes, rest, strict=True)])
        sums[whole] -= hidden[torch.from_numpy(ends[:-1])[whole]]  # the first token, which does not count
        sums = sums @ self.inverse_rotation + torch.stack([prefix.states[1:].sum(0) for prefix in prefixes])
        return sums / torch.tensor([[max(1, len(sequence) - 1)] for sequence in sequences])

    @torch.inference_mode()
    def prefill(self, documents: Sequence[Sequence[int]]) -> PackedKVCache:
        """Returns the keys and values of document segments."""
        prefixes, rest = self._split(documents)
        lengths = torch.tensor([len(document) for document in documents])
        before = torch.tensor([len(prefix.tokens) for prefix in prefixes])
        starts = lengths.cumsum(0) - lengths
        rows = np.empty((len(self.weights.bias), int(lengths.sum()), self.kv_width), np.uint16)
        for start, prefix in zip(starts.tolist(), prefixes, strict=True):
            rows[:, start : start + len(prefix.tokens)] = prefix.rows
        cache_rows = torch.cat(
            [torch.arange(a, b) for a, b in zip(starts + before, starts + lengths, strict=True)]
        ).numpy()
        done = 0
        for i, j in _batch_spans([len(text) for text in rest], self.token_budget):
            count = sum(map(len, rest[i:j]))
            self._forward(
                rest[i:j], PackedKVCache(rows, starts[i:j], before[i:j]), True, cache_rows[done : done + count]
            )
            done += count
        return PackedKVCache(rows, starts, lengths)

    def join(self, caches: Sequence[PackedKVCache]) -> PackedKVCache:
        """Returns several documents' caches as one."""
        lengths = torch.cat([cache.lengths for cache in caches])
        return PackedKVCache(np.concatenate([c.rows for c in caches], axis=1), lengths.cumsum(0) - lengths, lengths)

    @torch.inference_mode()
    def encode_with_prefix(self, cache: PackedKVCache, rows: Tensor, queries: Sequence[Sequence[int]]) -> Tensor:
        """Returns the last token's state of each query segment after document ``rows[i]``: float32 (n, H)."""
        past = PackedKVCache(cache.rows, cache.starts[rows], cache.lengths[rows])
        return self._forward(queries, past, True)[0] @ self.inverse_rotation

    @torch.inference_mode()
    def append(self, cache: PackedKVCache, texts: Sequence[Sequence[int]], rows: np.ndarray) -> Tensor:
        """Reads further tokens of texts; their keys and values go to ``rows`` of the cache, int64 (tokens,).

        Returns:
            The last token's state of each text: float32 (n, H).
        """
        return self._forward(texts, cache, True, rows)[0] @ self.inverse_rotation

    def _split(self, sequences: Sequence[Sequence[int]]) -> tuple[list[SharedPrefix], list[Sequence[int]]]:
        """Returns each text's shared prefix, and what is left to read, at least one token."""
        prefixes = []
        for sequence in sequences:
            sizes = ((prefix, len(prefix.tokens)) for prefix in self.shared_prefixes)
            prefixes.append(next(p for p, n in sizes if n < len(sequence) and tuple(sequence[:n]) == p.tokens))
        rest = [sequence[len(prefix.tokens) :] for sequence, prefix in zip(sequences, prefixes, strict=True)]
        return prefixes, rest

    def _forward(
        self, texts: Sequence[Sequence[int]], past: PackedKVCache, last: bool, cache_rows: np.ndarray | None = None
    ) -> tuple[Tensor, np.ndarray]:
        """Returns rotated states after the final norm, of all tokens or each text's last; and 0 and where texts end.

        With ``cache_rows``, keys and values go there in ``past.rows``.
        """
        ids = torch.tensor([token for text in texts for token in text])
        ends = np.cumsum([0, *map(len, texts)])
        positions = np.concatenate(
            [p + np.arange(len(text)) for p, text in zip(past.lengths.tolist(), texts, strict=True)]
        )
        rope = self.rope  # another thread may put another there
        if positions.max() >= rope.shape[1]:
            self.rope = rope = self._rope(2 * int(positions.max()))
        store = past.rows
        if cache_rows is None:  # a layer's are forgotten after the next: a thread may be so far ahead
            store, cache_rows = np.empty((2, len(ids), self.kv_width), np.uint16), np.arange(len(ids))
        past_starts, past_lengths = past.starts.numpy(), past.lengths.numpy()
        cached = past.rows, past_starts, past_lengths, store, cache_rows
        batch = Batch(ends, positions, *cached, rope, NO_BIAS, last)
        parts = share_rows(ends, lambda *share: self._run(ids, batch, *share))
        return torch.from_numpy(np.concatenate(parts)), ends

    @torch.inference_mode()
    def _run(self, ids: Tensor, batch: Batch, first: int, end: int, threads: int, barrier: np.ndarray) -> np.ndarray:
        """Takes a thread's rows through all layers."""
        update = (self.embeddings[ids[first:end]].double() @ self.rotation).float().numpy()
        hidden = np.zeros((-(-len(update) // TILE_ROWS) * TILE_ROWS, update.shape[1]), np.float32)
        return hidden[: forward(hidden, update, first, self.layers, batch, threads, barrier)]

    def _rope(self, positions: int) -> np.ndarray:
        """Returns the cosine and sine of each position: float32 (2, positions, head size / 2)."""
        angles = torch.arange(positions).float()[:, None] * torch.from_numpy(self.weights.frequencies)
        return (torch.stack([angles.cos(), angles.sin()]) * self.weights.shape.rope_scale).numpy()


def _cached_prefix(
    get_model: Callable[[], PreTrainedModel], tokens: tuple[int, ...], cache: WeightCache[Int8Weights] | None
) -> SharedPrefix:
    def compute() -> dict[str, np.ndarray]:
        prefix = compute_prefix(get_model(), tokens)
        return {"rows": prefix.rows, "states": prefix.states.numpy()}

    name = "prefix-" + hashlib.sha256(str(tokens).encode()).hexdigest()[:32]
    arrays = cache.arrays(name, compute) if cache else compute()
    return SharedPrefix(tokens, arrays["rows"], torch.from_numpy(arrays["states"]))


def _batch_spans(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Returns spans of neighbouring texts that hold at most ``budget`` tokens together, or one text."""
    spans, start, total = [], 0, 0
    for i, length in enumerate(lengths):
        if total and total + length > budget:
            spans.append((start, i))
            start, total = i, 0
        total += length
    return [*spans, (start, len(lengths))]
