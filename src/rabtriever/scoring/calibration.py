"""Log-odds to calibrated probabilities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rabtriever.errors import InputError

REGULARIZATION = 1.0  # towards the prior, so that a few labels do not make a model certain
LIST_DEPTH = 10  # best documents of a list: the rivals of each
LEAST_SLOPE = 1e-3  # of log-odds that increase with relevance


@dataclass(frozen=True)
class Calibration:
    """Probabilities of ranked documents, which never change the ranking.

    A pair alone has ``P = sigmoid(log_odds / temperature + offset)`` (Platt scaling); so two models' log-odds compare.
    In a list, better documents make one less probable, with ``x = log_odds / list_temperature + list_offset``::

        P_i = sigmoid(x_i - competition * log(1 + sum_j exp(x_j)))      j: the ten best documents but i

    A ``competition`` of 1 is a softmax over the documents and "none of them", for queries that have one answer; of 0
    the documents are judged apart. Documents of equal log-odds, such as copies, do not compete.

    Attributes:
        temperature: Above 0; above 1 if the model is overconfident.
        offset: Below 0 if relevant documents are rarer than in training.
        competition: 0 to 1.
        list_temperature: As ``temperature``, which it is if None.
        list_offset: As ``offset``, which it is if None.
    """

    temperature: float = 1.0
    offset: float = 0.0
    competition: float = 0.0
    list_temperature: float | None = None
    list_offset: float | None = None

    def probability(self, log_odds: np.ndarray | float) -> np.ndarray:
        """Returns the probabilities of pairs, each alone, float64 of the same shape."""
        return _sigmoid(np.asarray(log_odds, np.float64) / self.temperature + self.offset)

    def list_probability(self, log_odds: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """Returns the probabilities of documents in lists, float64 (..., n).

        Args:
            log_odds: float (..., n), each list in any order.
            among: float (..., m), the documents whose ten best compete; ``log_odds`` if None.
        """
        log_odds = np.asarray(log_odds, dtype=np.float64)
        rivals = _rivals(log_odds, log_odds if among is None else among) if self.competition else None
        temperature = self.temperature if self.list_temperature is None else self.list_temperature
        offset = self.offset if self.list_offset is None else self.list_offset
        return _sigmoid(_logits(log_odds, rivals, 1 / temperature, offset, self.competition))

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
        probabilities = self.list_probability(log_odds)
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
        """Fits the scaling to labelled pairs, by the regularised logistic loss.

        Args:
            log_odds: float (n,) of pairs, which are judged apart, or (n_queries, n) of lists, -inf where there is no
                document.
            labels: bool, the same shape, whether the document is relevant.
            prior: What a few labels change little, and the result if there are no pairs, only one kind of label, or
                if log-odds do not increase with relevance; the identity if None.
        """
        prior, there = prior or cls(), ~np.isneginf(log_odds)
        x, y = np.asarray(log_odds, dtype=np.float64), np.asarray(labels, dtype=np.float64)[there]
        if not len(y) or y.min() == y.max():
            return prior
        slope, offset, _ = _fit(x[there], None, y, prior)
        if slope <= LEAST_SLOPE:
            return prior
        pairs = cls(1 / slope, offset)
        if x.ndim == 1:
            return pairs
        slope, offset, competition = _fit(x[there], _rivals(x, x)[there], y, prior)
        return (
            replace(pairs, competition=competition, list_temperature=1 / slope, list_offset=offset)
            if slope > LEAST_SLOPE
            else pairs
        )


def _fit(x: np.ndarray, rivals: np.ndarray | None, y: np.ndarray, prior: Calibration) -> tuple[float, float, float]:
    """Returns slope, offset and competition of log-odds x float (n,) with labels y (n,), by the regularised loss."""
    from scipy.optimize import minimize

    start = np.array([1 / prior.temperature, prior.offset, prior.competition])
    scale = np.array([np.sqrt(max(np.square(x).mean(), 1e-12)), 1.0, 1.0])  # log-odds may all be 0

    def loss(scaled: np.ndarray) -> float:
        logits = _logits(x, rivals, *(scaled / scale))
        pull = REGULARIZATION * np.square(scaled - start * scale).sum() / 2
        return float((np.logaddexp(0, logits) - y * logits).sum() + pull)

    bounds = [(-np.inf, np.inf), (-np.inf, np.inf), (0, 0.0 if rivals is None else 1.0)]
    slope, offset, competition = minimize(loss, start * scale, method="L-BFGS-B", bounds=bounds).x / scale
    return float(slope), float(offset), float(competition)


def _rivals(log_odds: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Returns the log-odds of each document's rivals (..., n, up to 10), of lists (..., n) and (..., m); -inf: none."""
    best = -np.sort(-np.asarray(among, np.float64), axis=-1)[..., :LIST_DEPTH]
    copy = np.zeros(best.shape, dtype=bool)
    copy[..., 1:] = best[..., 1:] == best[..., :-1]
    best = np.where(copy, -np.inf, best)[..., None, :]
    return np.where(best == log_odds[..., None], -np.inf, best)


def _logits(
    log_odds: np.ndarray, rivals: np.ndarray | None, slope: float, offset: float, competition: float
) -> np.ndarray:
    logits = log_odds * slope + offset
    if rivals is None:
        return logits
    against = np.where(np.isneginf(rivals), -np.inf, rivals * slope + offset)
    return logits - competition * np.logaddexp(0, np.logaddexp.reduce(against, axis=-1))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return result
