"""Writing by the int8 engine: prompts are read once, then each step appends a token to every text's keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rabtriever.llm.engines import create_engine
from rabtriever.llm.int8.engine import Int8Engine, PackedKVCache
from rabtriever.llm.loading import LoadedLLM

MAX_SHARED = 8  # beginnings that are kept
EXACT_TOKENS = 4  # that are read in float32: the first one's huge states are what eight bits cannot hold


class Int8Decoder:
    """See :class:`rabtriever.llm.writing.Decoder`. A text's logits do not depend on what else is in the batch."""

    def __init__(self, llm: LoadedLLM, beginning: Sequence[int]) -> None:
        engine = create_engine(llm, [beginning[:EXACT_TOKENS]])
        assert isinstance(engine, Int8Engine)
        self.engine = engine
        tied = llm.config.get_text_config().tie_word_embeddings
        head = engine.embeddings if tied else llm.model.get_output_embeddings().weight
        self.head = head.to(llm.dtype)
        llm.release_model()
        self.shared: dict[tuple[int, ...], np.ndarray] = {}  # of the beginnings that were read, keys and values

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], n_shared: int, max_tokens: int) -> Tensor:
        """Reads prompts whose first ``n_shared`` tokens are the same; returns the next token's logits (n, V)."""
        beginning = tuple(prompts[0][:n_shared])
        if beginning not in self.shared:
            self.shared = dict(list(self.shared.items())[1 - MAX_SHARED :])
            self.shared[beginning] = self.engine.prefill([beginning]).rows
        shared = self.shared[beginning]
        room = max(map(len, prompts)) + max_tokens
        self.rows = np.empty((shared.shape[0], len(prompts) * room, shared.shape[2]), np.uint16)
        self.starts = torch.arange(len(prompts)) * room
        self.lengths = torch.full((len(prompts),), n_shared)
        for start in self.starts.tolist():
            self.rows[:, start : start + n_shared] = shared
        return self._read([prompt[n_shared:] for prompt in prompts])

    @torch.inference_mode()
    def step(self, kept: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Leaves out all texts but ``kept``, appends a token to each and returns the next one's logits."""
        self.starts, self.lengths = self.starts[list(kept)], self.lengths[list(kept)]
        return self._read([[token] for token in tokens])

    def _read(self, texts: Sequence[Sequence[int]]) -> Tensor:
        counts = torch.tensor([len(text) for text in texts])
        begins = (self.starts + self.lengths).tolist()
        rows = np.concatenate([np.arange(a, a + len(text)) for a, text in zip(begins, texts, strict=True)])
        states = self.engine.append(PackedKVCache(self.rows, self.starts, self.lengths), texts, rows)
        self.lengths = self.lengths + counts
        return states.to(self.head.dtype) @ self.head.T
