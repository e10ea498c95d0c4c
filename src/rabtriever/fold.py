"""The predictor folded into lm_head: a document becomes m + 1 numbers, and a score needs no weights.

Ranking needs only ``w . z^`` with ``w = w_yes - w_no``, lm_head's two rows. The predictor is ``z^ = mean + scale *
(W2 act(a + b) + b2)`` with ``a = U q``, ``b = V d + b1``. With ``v = W2^T (scale * w)`` and ``c = w . (mean + scale *
b2)``:

    log-odds(q, d) = sum_j v_j act(a_j + b_j) + c

*mlp*, act = ReLU: positively homogeneous, so abs(v_j) moves inside: ``v_j relu(a_j + b_j) = sign(v_j) relu(|v_j| a_j +
|v_j| b_j)``. Units are ordered by the sign of v_j; one integer, the number of pluses, is all that scoring must know.

*quadratic*, act(x) = x^2: with a' and b' scaled by sqrt(abs(v)) and s = sign(v), the sum is an inner product,
``sum_j (2 s_j a'_j) b'_j + sum_j s_j a'_j^2 + sum_j s_j b'_j^2``: any inner-product index finds the best exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Affine:
    """States (n, H) to hidden units (n, m), both float32."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Apply the map."""
        return states @ self.weight + self.bias


@dataclass(frozen=True)
class Fold:
    """The folded predictor.

    Attributes:
        units_q: Query states to the scaled a', the units with a plus first.
        units_d: Document states to the scaled b', in the same order.
        plus: How many units count with a plus.
        constant: c.
        inner: Whether the score is an inner product (``quadratic``) or a sum of ReLUs (``mlp``).
    """

    units_q: Affine
    units_d: Affine
    plus: int
    constant: float
    inner: bool

    @property
    def positive(self) -> int | None:
        """What :func:`folded_scores` must know: leading units with a plus, None for an inner product."""
        return None if self.inner else self.plus

    def query(self, states: np.ndarray) -> np.ndarray:
        """Query states (n, H) to latents float32 (n, m + 1); the last column is the bias."""
        units = self.units_q(states)
        if not self.inner:
            return _with_bias(units, np.full(len(units), self.constant, dtype=np.float32))
        signs = self._signs(units.shape[1])
        return _with_bias(2 * signs * units, np.square(units) @ signs + np.float32(self.constant))

    def document(self, states: np.ndarray) -> np.ndarray:
        """Document states (n, H) to latents float32 (n, m + 1); the last column is the bias."""
        units = self.units_d(states)
        bias = np.square(units) @ self._signs(units.shape[1]) if self.inner else np.zeros(len(units), np.float32)
        return _with_bias(units, bias)

    def _signs(self, width: int) -> np.ndarray:
        return _signs(width, self.plus)


def folded_scores(queries: np.ndarray, documents: np.ndarray, positive: int | None) -> np.ndarray:
    """Log-odds of every query and document from their latents: the reference that every kernel must equal.

    Args:
        queries: float32 (n, m + 1).
        documents: float32 (k, m + 1).
        positive: Leading units that count with a plus; None if the score is the latents' inner product.

    Returns:
        float32 (n, k).
    """
    latents, result = documents[:, :-1], np.empty((len(queries), len(documents)), np.float32)
    hidden = np.empty(latents.shape, np.float32)
    for row, query in zip(result, queries, strict=True):
        if positive is None:
            np.multiply(latents, query[:-1], out=hidden)
            units = hidden.sum(axis=1, dtype=np.float64)
        else:
            np.maximum(np.add(latents, query[:-1], out=hidden), 0, out=hidden)
            units = hidden[:, :positive].sum(axis=1, dtype=np.float64)
            units -= hidden[:, positive:].sum(axis=1, dtype=np.float64)
        # Row by row and in float64, so that a document's score does not depend on its neighbours.
        row[:] = units + documents[:, -1] + query[-1]
    return result


def _with_bias(units: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return np.concatenate([units, bias[:, None]], axis=1, dtype=np.float32)


def _signs(width: int, plus: int) -> np.ndarray:
    signs = np.ones(width, dtype=np.float32)
    signs[plus:] = -1
    return signs
