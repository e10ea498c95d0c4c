"""An encoder's embedding and an LLM's state of a text, side by side: one gives the similarity, a predictor reads both.

A query is ``[e_q | s_q | 0]`` and a document ``[e_d | 0 | s_d]``: their inner product is the encoder's similarity.
States s are those of a frozen LLM that reads one text, scaled to length one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rabtriever.encoders.base import Encoder, Kind
from rabtriever.training.teacher_cache import TeacherCache


class SideBySide:
    """See :class:`rabtriever.encoders.base.Encoder`; for measurements, it is not saved."""

    has_similarity, owned_folder = True, None

    def __init__(self, encoder: Encoder, llm: Encoder) -> None:
        self.encoder, self.llm, self._cache = encoder, llm, TeacherCache(llm)
        self.hidden_size = encoder.hidden_size + 2 * llm.hidden_size
        self.fingerprint = f"{encoder.fingerprint}&{llm.fingerprint}&apart"
        self.numerics = f"{encoder.numerics}&{llm.numerics}"

    def encode_queries(
        self, texts: Sequence[str], batch_size: int | None = None, show_progress_bar: bool = False
    ) -> np.ndarray:
        """Returns float32 (n, H)."""
        embeddings, states = self.encoder.encode_queries(texts), self._states("query", texts)
        return np.concatenate([embeddings, states, np.zeros_like(states)], axis=1)

    def encode_documents(
        self, texts: Sequence[str], batch_size: int | None = None, show_progress_bar: bool = False
    ) -> np.ndarray:
        """Returns float32 (n, H)."""
        embeddings, states = self.encoder.encode_documents(texts), self._states("document", texts)
        return np.concatenate([embeddings, np.zeros_like(states), states], axis=1)

    def count_tokens(self, kind: Kind, texts: Sequence[str]) -> list[int]:
        """Returns the encoder's."""
        return self.encoder.count_tokens(kind, texts)

    def max_tokens(self, kind: Kind) -> int:
        """Returns the encoder's."""
        return self.encoder.max_tokens(kind)

    def truncate_documents(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Returns texts as the encoder truncates them."""
        return self.encoder.truncate_documents(texts, max_tokens)

    def describe(self) -> dict[str, Any]:
        """Returns both names."""
        return {"name": " & ".join(one.describe()["name"] for one in (self.encoder, self.llm)), "backend": "both"}

    def to_config(self) -> dict[str, Any]:
        """Returns nothing that loads it."""
        return {"kind": "side by side"}

    def _states(self, kind: Kind, texts: Sequence[str]) -> np.ndarray:
        """Returns the LLM's states; a pass costs much, so they come from the cache where they can."""
        states = self._cache.states(kind, texts).numpy()
        return states / np.linalg.norm(states, axis=1, keepdims=True)
