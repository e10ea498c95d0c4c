"""The interface of rerankers, and what follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from rabtriever.errors import InputError
from rabtriever.scoring.calibration import Calibration

Side = Literal["query", "document"]


class Scores(NamedTuple):
    """Scores of n pairs.

    Attributes:
        log_odds: float32 (n,), logit(yes) - logit(no).
        states: float32 (n, H), the context embeddings z*(q, d), if they were asked for.
    """

    log_odds: np.ndarray
    states: np.ndarray | None = None


class Reranker(Protocol):
    """A model that scores (query, document) pairs jointly.

    Attributes:
        fingerprint: Identifies everything that changes a score.
        numerics: Identifies what computes, such as backend, data type and device: rounding depends on it.
        has_states: Whether it has context embeddings.
        group_by: Pairs of one such text cost less side by side: what it reads first, or asks a server about at once.
        calibration: Log-odds to probabilities.
        adapter: Folder of weights that a saved model must hold besides what ``to_config`` names, or None.
    """

    fingerprint: str
    numerics: str
    has_states: bool
    group_by: Side
    calibration: Calibration
    adapter: Path | None

    def describe(self) -> dict[str, Any]:
        """Returns, JSON-ready, the model's ``name``, its ``backend``, an LLM's ``prompt_hash`` and ``choices``."""

    def to_config(self) -> dict[str, Any]:
        """Returns the JSON values of ``rabtriever.json`` that load the reranker again."""

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: np.ndarray,
        *,
        with_states: bool = False,
        show_progress_bar: bool = False,
    ) -> Scores:
        """Scores the pairs int64 (n, 2) of (query, document) positions."""


class PairScorer(ABC):
    """What any reranker can do that scores pairs."""

    calibration: Calibration
    group_by: Side = "document"

    @abstractmethod
    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: np.ndarray,
        *,
        with_states: bool = False,
        show_progress_bar: bool = False,
    ) -> Scores:
        """See :meth:`Reranker.score`."""

    def predict(self, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
        """Returns the probability float32 (n,) that each document is relevant to its query.

        Args:
            pairs: (query, document) texts.

        Raises:
            InputError: something that is not a pair, or an error of :meth:`score`.
        """
        pairs = list(pairs)
        if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
            raise InputError("predict: expected a list of (query, document) pairs; wrap a single pair in a list")
        queries, documents = [query for query, _ in pairs], [document for _, document in pairs]
        log_odds = self.score(queries, documents, np.arange(len(pairs)).repeat(2).reshape(-1, 2)).log_odds
        return self.calibration.probability(log_odds).astype(np.float32)

    def rank(self, query: str, documents: Iterable[str], top_k: int | None = None) -> list[dict[str, int | float]]:
        """Ranks documents from the most to the least probable.

        Returns:
            ``[{"corpus_id": position in documents, "score": probability}, ...]``, the ``top_k`` best or all; ties
            keep their order.

        Raises:
            InputError: ``top_k`` below 1, or a text of zero tokens.
        """
        return self.calibration.rank(self.log_odds([query], list(documents))[0], top_k)

    def log_odds(self, queries: Sequence[str], documents: Sequence[str], show_progress_bar: bool = False) -> np.ndarray:
        """Returns the log-odds of every query and document, float32 (n, k); errors as in :meth:`score`."""
        pairs = np.indices((len(queries), len(documents))).reshape(2, -1).T
        scores = self.score(queries, documents, pairs, show_progress_bar=show_progress_bar)
        return scores.log_odds.reshape(len(queries), len(documents))
