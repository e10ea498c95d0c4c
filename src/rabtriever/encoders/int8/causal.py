"""Causal LLMs as encoders, such as Qwen3-Embedding: the LLMs' own engine, whose last token's state is the embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rabtriever.encoders.int8.weights import FORMAT
from rabtriever.llm.int8.engine import Int8Engine
from rabtriever.llm.int8.weight_cache import WeightCache
from rabtriever.llm.int8.weights import Int8Weights

if TYPE_CHECKING:
    from rabtriever.encoders.sentence_model import SentenceModel
    from rabtriever.encoders.sentence_torch import TorchSentenceEngine


class CausalSentenceEngine:
    """See :class:`rabtriever.encoders.sentence_engines.SentenceEngine`.

    Args:
        model: The model's files.
        load: Returns the model in float32 on the CPU; called at most once, if not all is cached.
        prefixes: Token ids that texts begin with: they are read once, in float32.
    """

    token_budget = Int8Engine.token_budget

    def __init__(
        self, model: SentenceModel, load: Callable[[], TorchSentenceEngine], prefixes: Sequence[Sequence[int]]
    ) -> None:
        loaded: list[Any] = []

        def get_model() -> Any:
            if not loaded:
                loaded.append(load().modules[0].auto_model)
            return loaded[0]

        cache = WeightCache(f"encoder {FORMAT} {model.weights_hash}", None, None, Int8Weights)
        self.engine = Int8Engine.create(get_model, prefixes, cache)

    def encode(self, sequences: Sequence[Sequence[int]], prompt_tokens: int) -> np.ndarray:
        """Returns float32 (n, width); the prompt is part of the text."""
        states: np.ndarray = self.engine.encode(sequences, "last").numpy()
        return states
