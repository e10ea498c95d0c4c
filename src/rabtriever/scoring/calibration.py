"""Log-odds to calibrated probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rabtriever.errors import InputError

REGULARIZATION = 1.0  # towards the prior, so that a few labels do not make a model certain


@dataclass(frozen=True)
class Calibration:
    """``P(relevant) = sigmoid(log_odds / temperature + offset)``: Platt scaling, which never changes a ranking.

    Attributes:
        temperature: Above 0; above 1 if the model is overconfident.
        offset: Below 0 if relevant documents are rarer than in training.
    """

    temperature: float = 1.0
    offset: float = 0.0

    def probability(self, log_odds: np.ndarray | float) -> np.ndarray:
        """Returns the probabilities of log-odds, float64 of the same shape."""
        return _sigmoid(np.asarray(log_odds, dtype=np.float64) / self.temperature + self.offset)

    def rank(self, log_odds: np.ndarray, top_k: int | None = None) -> list[dict[str, int | float]]:
        """Ranks documents by the log-odds float (n,) of one query.

        Returns:
            ``[{"corpus_id": position, "score": probability}, ...]``, the ``top_k`` best or all; ties keep their order.

        Raises:
            InputError: ``top_k`` below 1.
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k {top_k}: ask for at least one document", param="top_k")
        order = np.argsort(-log_odds, kind="stable")[:top_k]
        probabilities = self.probability(log_odds)
        return [{"corpus_id": int(i), "score": float(probabilities[i])} for i in order]

    def convert(self, log_odds: np.ndarray, source: Calibration) -> np.ndarray:
        """Expresses another model's log-odds on this calibration's scale, so that both models' numbers compare.

        Returns:
            float32 (n,) with ``self.probability(result) == source.probability(log_odds)``.
        """
        logit = np.asarray(log_odds, np.float64) / source.temperature + source.offset
        return ((logit - self.offset) * self.temperature).astype(np.float32)

    @classmethod
    def fit(cls, log_odds: np.ndarray, labels: np.ndarray, prior: Calibration | None = None) -> Calibration:
        """Fits the scaling to labelled pairs (Newton's method on the regularised logistic loss, with backtracking).

        Args:
            log_odds: float (n,).
            labels: bool (n,), whether the document is relevant.
            prior: What a few labels change little, and the result if there are no pairs, only one kind of label, or
                if log-odds do not increase with relevance; the identity if None.
        """
        x, y = np.asarray(log_odds, dtype=np.float64), np.asarray(labels, dtype=np.float64)
        prior = prior or cls()
        if not len(y) or y.min() == y.max():
            return prior
        inputs, start = np.stack([x, np.ones_like(x)]), np.array([1 / prior.temperature, prior.offset])
        pull = REGULARIZATION * np.array([max(np.square(x).mean(), 1e-12), 1.0])  # log-odds may all be 0

        def loss(at: np.ndarray) -> float:
            scores = at @ inputs
            return float((np.logaddexp(0, scores) - y * scores).sum() + (pull * np.square(at - start)).sum() / 2)

        values = start
        for _ in range(100):
            p = _sigmoid(values @ inputs)
            slope = inputs @ (p - y) + pull * (values - start)
            curvature = (inputs * (p * (1 - p))) @ inputs.T + np.diag(pull)
            step = np.linalg.solve(curvature, slope)
            while loss(values - step) > loss(values) and np.abs(step).max() > 1e-9:
                step = step / 2
            values = values - step
            if np.abs(step).max() <= 1e-9:
                break
        return cls(float(1 / values[0]), float(values[1])) if values[0] > 1e-3 else prior


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return result
