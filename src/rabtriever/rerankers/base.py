"""The interface of rerankers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

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
        calibration: Log-odds to probabilities.
    """

    fingerprint: str
    calibration: Calibration

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
