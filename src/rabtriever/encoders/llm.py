"""The paper's encoder: the reranker's own LLM, frozen, encodes queries and documents separately."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rabtriever.encoders.base import Kind
from rabtriever.errors import TextError
from rabtriever.llm.backbone import NOT_FINITE, NotFiniteError, Pooling
from rabtriever.llm.prompt import deduplicate
from rabtriever.llm.prompted import PromptedLLM


class LLMEncoder:
    """An LLM's hidden states as embeddings; see :class:`rabtriever.encoders.base.Encoder`.

    Args:
        llm: The LLM and its prompt. A document is encoded as the prompt's document segment, the reranker's prefix; a
            query as the query segment without a document before it.
        pooling: ``mean`` of a segment's states without the first token, or the ``last`` state.
    """

    has_similarity = False  # hidden states of an LLM that was trained to predict the next token
    owned_folder = None

    def __init__(self, llm: PromptedLLM, pooling: Pooling = "mean") -> None:
        self.llm, self.pooling, self.hidden_size = llm, pooling, llm.hidden_size
        self.numerics = llm.numerics
        self.fingerprint = hashlib.sha256(f"{llm.fingerprint}/{pooling}".encode()).hexdigest()

    def encode_queries(
        self, texts: Sequence[str], batch_size: int | None = None, show_progress_bar: bool = False
    ) -> np.ndarray:
        """Returns the states float32 (n, H) of queries."""
        ids = self.llm.prompt.query_ids(texts, with_bos=True)
        return self._encode("query", texts, ids, batch_size, "encoding queries" if show_progress_bar else None)

    def encode_documents(
        self, texts: Sequence[str], batch_size: int | None = None, show_progress_bar: bool = False
    ) -> np.ndarray:
        """Returns the states float32 (n, H) of documents."""
        ids = self.llm.prompt.document_ids(texts)
        return self._encode("document", texts, ids, batch_size, "encoding documents" if show_progress_bar else None)

    def count_tokens(self, kind: Kind, texts: Sequence[str]) -> list[int]:
        """Returns the number of tokens of each text before truncation."""
        return self.llm.prompt.count_tokens(kind, texts)

    def max_tokens(self, kind: Kind) -> int:
        """Returns the prompt's budget."""
        return self.llm.template.query_tokens if kind == "query" else self.llm.template.document_tokens

    def truncate_documents(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Returns the texts, those of more than ``max_tokens`` tokens truncated to their first ones."""
        return self.llm.prompt.truncate_documents(texts, max_tokens)

    def describe(self) -> dict[str, Any]:
        """Returns, JSON-ready, the LLM's ``name`` and its ``backend``."""
        return {"name": Path(self.llm.loaded.source).name, "backend": self.llm.loaded.backend}

    def to_config(self) -> dict[str, Any]:
        """Returns the JSON values of ``rabtriever.json`` that load the encoder again."""
        return {"kind": "llm", "pooling": self.pooling, **self.llm.to_config()}

    def _encode(
        self, kind: Kind, texts: Sequence[str], ids: list[list[int]], batch_size: int | None, progress: str | None
    ) -> np.ndarray:
        # Equal sequences are encoded once: side by side in a batch they could differ in the last digits.
        distinct, row_of = deduplicate(ids)
        try:
            states = self.llm.backbone.states(distinct, self.pooling, progress, batch_size)
        except NotFiniteError as error:
            position = row_of.tolist().index(error.position)
            raise TextError(kind, position, texts[position], NOT_FINITE) from None
        result: np.ndarray = states.numpy()[row_of]
        return result
