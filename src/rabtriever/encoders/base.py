"""The interface of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

Kind = Literal["query", "document"]


class Encoder(Protocol):
    """A model that encodes queries and documents separately.

    Attributes:
        hidden_size: H, width of the embeddings.
        fingerprint: Identifies everything that changes an embedding.
        numerics: Identifies what computes, such as backend, data type and device: rounding depends on it.
        has_similarity: Whether the inner product of two embeddings was trained as their similarity.
        owned_folder: Folder of a model that belongs to the retriever and is saved with it; None of one loaded by name.

    A text that has no finite embedding raises :class:`rabtriever.errors.TextError` with its position.
    """

    hidden_size: int
    fingerprint: str
    numerics: str
    has_similarity: bool

    @property
    def owned_folder(self) -> Path | None:
        """See the class."""

    def encode_queries(
        self, texts: Sequence[str], batch_size: int | None = None, show_progress_bar: bool = False
    ) -> np.ndarray:
        """Returns the embeddings float32 (n, H) of queries."""

    def encode_documents(
        self, texts: Sequence[str], batch_size: int | None = None, show_progress_bar: bool = False
    ) -> np.ndarray:
        """Returns the embeddings float32 (n, H) of documents."""

    def count_tokens(self, kind: Kind, texts: Sequence[str]) -> list[int]:
        """Returns the number of tokens of each text before truncation."""

    def max_tokens(self, kind: Kind) -> int:
        """Returns the number of tokens to which queries or documents are truncated."""

    def truncate_documents(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Returns the texts, those of more than ``max_tokens`` tokens truncated to their first ones."""

    def describe(self) -> dict[str, Any]:
        """Returns, JSON-ready, the model's ``name`` and what runs it, its ``backend``."""

    def to_config(self) -> dict[str, Any]:
        """Returns the JSON values of ``rabtriever.json`` that load the encoder again."""
