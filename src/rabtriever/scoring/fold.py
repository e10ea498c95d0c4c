"""The predictor folded into lm_head: a document becomes m + 2 numbers, and a score needs no weights.

Ranking needs only ``w . z^`` with ``w = w_yes - w_no``, lm_head's two rows. The predictor is ``z^ = mean + scale *
(W2 act(a + b) + b2)`` with ``a = U q``, ``b = V d + b1``. With ``v = W2^T (scale * w)`` and ``c = w . (mean + scale *
b2)``:

    log-odds(q, d) = sum_j v_j act(a_j + b_j) + c

*mlp*, act = ReLU: positively homogeneous, so abs(v_j) moves inside: ``v_j relu(a_j + b_j) = sign(v_j) relu(|v_j| a_j +
|v_j| b_j)``. Units are ordered by the sign of v_j, so that a :class:`ScoreLayout` is all that scoring must know.

*quadratic*, act(x) = x^2: with a' and b' scaled by sqrt(abs(v)) and s = sign(v), the sum is an inner product,
``sum_j (2 s_j a'_j) b'_j + sum_j s_j a'_j^2 + sum_j s_j b'_j^2``: any inner-product index finds the best exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rabtriever.scoring.layout import ScoreLayout


class Affine(NamedTuple):
    """States (n, H) to hidden units (n, m), both float32."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Returns the hidden units float32 (n, m)."""
        return states @ self.weight + self.bias


class Fold(NamedTuple):
    """The folded predictor.

    Attributes:
        query_map: Query states to the scaled a', positive units first.
        document_map: Document states to the scaled b', in the same order.
        layout: What the columns of both sides mean: all inner (``quadratic``) or all ReLU (``mlp``).
        signs: float32 (m,), the sign of each unit's v_j.
        constant: c.
    """

    query_map: Affine
    document_map: Affine
    layout: ScoreLayout
    signs: np.ndarray
    constant: float

    def query(self, states: np.ndarray) -> np.ndarray:
        """Returns the latents float32 (n, dim) of query states float32 (n, H)."""
        units = self.query_map(states)
        if self.layout.n_inner:
            return _latents(2 * self.signs * units, 0, self._bias(units) + np.float32(self.constant))
        return _latents(units, self.constant, self._bias(units))

    def document(self, states: np.ndarray) -> np.ndarray:
        """Returns the latents float32 (n, dim) of document states float32 (n, H)."""
        units = self.document_map(states)
        return _latents(units, 1, self._bias(units))

    def _bias(self, units: np.ndarray) -> np.ndarray:
        return np.square(units) @ self.signs if self.layout.n_inner else np.zeros(len(units), np.float32)


def score_latents(queries: np.ndarray, documents: np.ndarray, layout: ScoreLayout) -> np.ndarray:
    """Returns the log-odds of every query and document, float32 (n, k): the reference that every kernel must equal.

    Args:
        queries: float32 (n, dim).
        documents: float32 (k, dim).
        layout: What the columns mean (:class:`ScoreLayout` states the equation).
    """
    inner, relu, gain, bias = np.split(documents, [layout.n_inner, layout.width, layout.width + 1], axis=1)
    result = np.empty((len(queries), len(documents)), np.float32)
    products, hidden = np.empty(inner.shape, np.float32), np.empty(relu.shape, np.float32)
    for row, query in zip(result, queries, strict=True):
        # Row by row and in float64, so that a document's score does not depend on the other documents.
        np.multiply(inner, query[: layout.n_inner], out=products)
        np.maximum(np.add(relu, query[layout.n_inner : layout.width], out=hidden), 0, out=hidden)
        units = hidden[:, : layout.n_positive].sum(axis=1, dtype=np.float64)
        units -= hidden[:, layout.n_positive :].sum(axis=1, dtype=np.float64)
        units += query[-2]
        row[:] = products.sum(axis=1, dtype=np.float64) + gain[:, 0] * units + bias[:, 0] + query[-1]
    return result


def _latents(units: np.ndarray, gain: float, bias: np.ndarray) -> np.ndarray:
    return np.concatenate([units, np.full((len(units), 1), gain), bias[:, None]], axis=1, dtype=np.float32)
