"""The interface of rerankers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from rabtriever.scoring.calibration import Calibration


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
        calibration: Log-odds to probabilities.
        adapter: Folder of weights that a saved model must hold besides what ``to_config`` names; None if there are none.
    """

    fingerprint: str
    numerics: str
    has_states: bool
    calibration: Calibration
    adapter: Path | None

    def describe(self) -> dict[str, Any]:
        """Returns, JSON-ready, the model's ``name`` and its ``backend``; of an LLM also its ``prompt_hash`` and ``choices``."""

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
