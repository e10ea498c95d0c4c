"""From log-odds to a probability that means one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PRIOR = 1.0  # strength of the pull towards "as it is": a few judgements must not make a model certain


@dataclass(frozen=True)
class Calibration:
    """``P(right) = sigmoid(log_odds / temperature + offset)``: Platt's scaling, which never changes a ranking.

    Attributes:
        temperature: Above 0; above 1 where the model is too sure of itself.
        offset: Below 0 where right documents are rarer than the model was trained to think.
    """

    temperature: float = 1.0
    offset: float = 0.0

    def probability(self, log_odds: np.ndarray | float) -> np.ndarray:
        """Probabilities of log-odds, both float of any shape."""
        scaled = np.asarray(log_odds, dtype=np.float64) / self.temperature + self.offset
        result: np.ndarray = 1 / (1 + np.exp(-np.clip(scaled, -500, 500)))
        return result

    @classmethod
    def fit(cls, log_odds: np.ndarray, right: np.ndarray) -> Calibration:
        """The most probable scaling for judged pairs (Newton's method on the logistic loss, with backtracking).

        Args:
            log_odds: float (n,).
            right: bool (n,).

        Returns:
            The scaling; as it is, if no pair or only one kind of pair is given, or if higher log-odds do not go with
            right documents.
        """
        x, y = np.asarray(log_odds, dtype=np.float64), np.asarray(right, dtype=np.float64)
        if not len(y) or y.min() == y.max():
            return cls()
        inputs, start = np.stack([x, np.ones_like(x)]), np.array([1.0, 0.0])
        pull = PRIOR * np.array([max(np.square(x).mean(), 1e-12), 1.0])  # log-odds may all be 0

        def loss(at: np.ndarray) -> float:
            scores = at @ inputs
            return float((np.logaddexp(0, scores) - y * scores).sum() + (pull * np.square(at - start)).sum() / 2)

        values = start
        for _ in range(100):
            p = 1 / (1 + np.exp(-np.clip(values @ inputs, -500, 500)))
            slope = inputs @ (p - y) + pull * (values - start)
            curvature = (inputs * (p * (1 - p))) @ inputs.T + np.diag(pull)
            step = np.linalg.solve(curvature, slope)
            while loss(values - step) > loss(values) and np.abs(step).max() > 1e-9:
                step = step / 2
            values = values - step
            if np.abs(step).max() <= 1e-9:
                break
        return cls(float(1 / values[0]), float(values[1])) if values[0] > 1e-3 else cls()
