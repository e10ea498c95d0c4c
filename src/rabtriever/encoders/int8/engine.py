"""Bidirectional encoders on a CPU: int8 matrix products, texts packed end to end, every row by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rabtriever.encoders.int8.forward import EncoderLayers, forward
from rabtriever.encoders.int8.weights import FORMAT, EncoderWeights, convert
from rabtriever.encoders.sentence_model import pooling_modes
from rabtriever.llm.int8.forward import Batch
from rabtriever.llm.int8.gang import share_rows
from rabtriever.llm.int8.matmul import TILE_ROWS
from rabtriever.llm.int8.rotation import hadamard_block_size
from rabtriever.llm.int8.weight_cache import WeightCache

if TYPE_CHECKING:
    from rabtriever.encoders.sentence_model import SentenceModel
    from rabtriever.encoders.sentence_torch import TorchSentenceEngine

TOKEN_BUDGET = 1024


class Int8SentenceEngine:
    """Computes int8 products, float32 between them; see :class:`rabtriever.encoders.sentence_engines.SentenceEngine`.

    Args:
        weights: The encoder, converted.
        pooling: ``mean``, ``cls`` or ``lasttoken``.
        include_prompt: Whether the mean counts prompt tokens.
    """

    token_budget = TOKEN_BUDGET

    def __init__(self, weights: EncoderWeights, pooling: str, include_prompt: bool) -> None:
        self.weights, self.pooling, self.include_prompt = weights, pooling, include_prompt
        shape, width = weights.shape, weights.embeddings.shape[1]
        blocks = hadamard_block_size(width), hadamard_block_size(shape.units)
        size, epsilon = shape.head_size, np.float32(shape.epsilon)
        self.layers = EncoderLayers(
            *(weights.qkv, weights.out, weights.up, weights.down),
            *(weights.qkv_bias, weights.out_bias, weights.up_bias, weights.down_bias),
            *(weights.norms, weights.head_norms, weights.windowed),
            (shape.heads, shape.key_heads, size, shape.units, *blocks, shape.window, shape.layer_norms, epsilon),
        )
        self.kv_width = 2 * shape.key_heads * size
        self.ropes = self._ropes(512)

    @classmethod
    def create(cls, model: SentenceModel, load: Callable[[], TorchSentenceEngine]) -> Int8SentenceEngine:
        """Makes the engine of a model, from the cache if it is there; ``load`` is then not called."""
        cache = WeightCache(f"encoder {FORMAT} {model.weights_hash}", None, None, EncoderWeights)
        weights = cache.load()
        if weights is None:
            modules: Any = load().modules
            dense = [module.linear for module in modules if type(module).__name__ == "Dense"]
            weights = cache.save(convert(modules[0].auto_model, dense))
        pooling = next(module for module in model.modules if module.kind == "Pooling")
        return cls(weights, pooling_modes(pooling)[0], pooling.settings.get("include_prompt", True))

    def encode(self, sequences: Sequence[Sequence[int]], prompt_tokens: int) -> np.ndarray:
        """Returns float32 (n, width); see :class:`rabtriever.encoders.sentence_engines.SentenceEngine`."""
        ids = np.array([token for sequence in sequences for token in sequence], np.int64)
        lengths = np.array([len(sequence) for sequence in sequences])
        ends = np.concatenate([[0], lengths.cumsum()])
        states = self._states(ids, ends)
        if self.pooling == "cls":
            pooled = states[ends[:-1]]
        elif self.pooling == "lasttoken":
            pooled = states[ends[1:] - 1]
        else:
            skipped = 0 if self.include_prompt else prompt_tokens
            sums = [states[start + skipped : end].sum(axis=0) for start, end in zip(ends[:-1], ends[1:], strict=True)]
            pooled = np.stack(sums) / np.maximum(lengths - skipped, 1)[:, None].astype(np.float32)
        weights = self.weights
        return pooled @ weights.projection + weights.projection_bias if len(weights.projection) else pooled

    def _states(self, ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Returns what the encoder makes of each token, float32 (n, H)."""
        positions = np.concatenate([np.arange(n) for n in np.diff(ends)])
        ropes = self.ropes  # another thread may put others there
        if positions.max() >= ropes[0].shape[1]:
            self.ropes = ropes = self._ropes(2 * int(positions.max()))
        n_texts, store = len(ends) - 1, np.empty((2, len(ids), self.kv_width), np.uint16)
        # Nothing was read before.
        past, none = np.empty((len(self.weights.qkv_bias), 0, self.kv_width), np.uint16), np.zeros(n_texts, np.int64)
        bias, rows = self.weights.position_bias, np.arange(len(ids))
        batches = tuple(Batch(ends, positions, past, none, none, store, rows, rope, bias, False) for rope in ropes)

        def work(first: int, end: int, threads: int, barrier: np.ndarray) -> np.ndarray:
            hidden = np.zeros(
                (-(-(end - first) // TILE_ROWS) * TILE_ROWS, self.weights.embeddings.shape[1]), np.float32
            )
            hidden[: end - first] = self._embed(ids[first:end], positions[first:end])
            forward(hidden, end - first, first, self.layers, batches, threads, barrier)
            return self._finish(hidden[: end - first])

        return np.concatenate(share_rows(ends, work))

    def _embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        embedded = self.weights.embeddings[ids].astype(np.float32) * np.float32(self.weights.shape.embedding_scale)
        return embedded + self.weights.positions[positions] if len(self.weights.positions) else embedded

    def _finish(self, hidden: np.ndarray) -> np.ndarray:
        shape = self.weights.shape
        if shape.layer_norms:
            return hidden
        squares = np.square(hidden).mean(axis=1, keepdims=True)
        return hidden / np.sqrt(squares + np.float32(shape.epsilon)) * self.weights.norms[-1, 1]

    def _ropes(self, positions: int) -> list[np.ndarray]:
        """Returns each position's cosine and sine, float32 (2, positions, head size / 2), for both kinds of layers."""
        angles = np.arange(positions, dtype=np.float32)[:, None] * self.weights.frequencies[:, None]
        return [np.stack([np.cos(one), np.sin(one)]) for one in angles]
