"""Similarity and predictor folded into one score: a document becomes some hundred numbers, a score needs no weights.

Ranking needs only ``w . z^`` with ``w = w_yes - w_no``, lm_head's two rows. The predictor is ``z^ = mean + scale *
(W2 act(a + b) + b2)`` with ``a = U q``, ``b = V d + b1``. With ``v = W2^T (scale * w)`` and ``c = w . (mean + scale *
b2)``:

    log-odds(q, d) = beta <q, d> + gain_d (sum_j v_j act(a_j + b_j) + c - center) + offset

The similarity is an inner product of ``sqrt(beta) q`` and ``sqrt(beta) d``; gain_d is stored with the document.

*mlp*, act = ReLU: positively homogeneous, so abs(v_j) moves inside: ``v_j relu(a_j + b_j) = sign(v_j) relu(|v_j| a_j +
|v_j| b_j)``. Units are ordered by the sign of v_j, so that a :class:`ScoreLayout` is all that scoring must know.

*quadratic*, act(x) = x^2: with a' and b' scaled by sqrt(abs(v)) and s = sign(v), the sum is an inner product,
``sum_j (2 s_j a'_j) b'_j + sum_j s_j a'_j^2 + sum_j s_j b'_j^2``: any inner-product index finds the best exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rabtriever.errors import InputError
from rabtriever.scoring.layout import ScoreLayout

UNREACHED = np.float32(-1e30)  # of a ReLU column: no document makes it positive


class Affine(NamedTuple):
    """States (n, H) to hidden units (n, m), both float32."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Returns the hidden units float32 (n, m)."""
        return states @ self.weight + self.bias


class FoldedPredictor(NamedTuple):
    """The folded predictor.

    Attributes:
        query_map: Query states to the scaled a', positive units first.
        document_map: Document states to the scaled b', in the same order.
        signs: float32 (m,), the sign of each unit's v_j.
        squares: Whether act is the square.
        constant: c.
    """

    query_map: Affine
    document_map: Affine
    signs: np.ndarray
    squares: bool
    constant: float


class Fold:
    """Maps states to latents, of which :func:`score_latents` computes the log-odds.

    Args:
        hidden_size: H, width of the states.
        predictor: None: the encoder's similarity alone.
        beta: Weight of the similarity; 0 leaves its columns out.
        offset: Added to every score.
        center: Subtracted from the predictor's part.

    Attributes:
        layout: What the latents' columns mean.
    """

    def __init__(
        self,
        hidden_size: int,
        predictor: FoldedPredictor | None,
        beta: float = 0.0,
        offset: float = 0.0,
        center: float = 0.0,
    ) -> None:
        self.predictor, self._offset, self._center = predictor, np.float32(offset), center
        self._root = np.float32(np.sqrt(beta))
        n_similarity, signs = hidden_size if beta else 0, predictor.signs if predictor else np.empty(0)
        n_positive = int((signs > 0).sum())
        if predictor and predictor.squares:
            self.layout = ScoreLayout(n_similarity + len(signs))
        else:
            self.layout = ScoreLayout(n_similarity, n_positive, len(signs) - n_positive)

    def query(self, states: np.ndarray, shift: np.ndarray | None = None) -> np.ndarray:
        """Returns the latents float32 (n, layout.dim) of query states float32 (n, H).

        A ``shift`` (n, H) adds its inner product with a document's state to the score; there must be a similarity.
        """
        gain, parts = np.zeros(len(states), np.float32), self._similarity(states)
        if shift is not None:
            parts[0] = parts[0] + shift / self._root
        if self.predictor:
            units, signs = self.predictor.query_map(states), self.predictor.signs
            gain = gain + np.float32(self.predictor.constant - self._center)
            if self.predictor.squares:
                gain, units = gain + np.square(units) @ signs, 2 * signs * units
            parts.append(units)
        return _join(parts, gain, np.full(len(states), self._offset))

    def similarity_only(self, latents: np.ndarray) -> np.ndarray:
        """Returns a copy of query latents, float32 (..., dim), whose scores are ``beta <q, d> + offset``.

        Raises:
            InputError: no similarity in the score, or squares that each document has added to its bias.
        """
        if not self._root:
            raise InputError("mode 'encoder': this retriever's score has no similarity; choose another", param="mode")
        if self.predictor and self.predictor.squares:
            fault = "a quadratic predictor's part cannot be left out of its documents"
            raise InputError(f"mode 'encoder': {fault}; choose another, or distill an mlp", param="mode")
        result = np.array(latents, np.float32)
        result[..., self.layout.n_inner : -2] = UNREACHED
        result[..., -2] = 0
        return result

    def document(self, states: np.ndarray, gains: np.ndarray | float = 1.0) -> np.ndarray:
        """Returns the latents float32 (n, layout.dim) of document states float32 (n, H), with their gains (n,)."""
        parts, bias = self._similarity(states), np.zeros(len(states), np.float32)
        gains = np.broadcast_to(np.float32(gains), len(states))
        if self.predictor:
            units = self.predictor.document_map(states)
            if self.predictor.squares:
                bias, units = gains * (np.square(units) @ self.predictor.signs), gains[:, None] * units
            parts.append(units)
        return _join(parts, gains, bias)

    def _similarity(self, states: np.ndarray) -> list[np.ndarray]:
        return [self._root * states] if self._root else []


def score_latents(queries: np.ndarray, documents: np.ndarray, layout: ScoreLayout) -> np.ndarray:
    """Returns the log-odds of every query and document, float32 (n, k): the reference that every kernel must equal.

    Args:
        queries: float32 (n, dim).
        documents: float32 (k, dim).
        layout: What the columns mean (:class:`ScoreLayout` states the equation).
    """
    inner, relu = np.split(documents[:, :-2], [layout.n_inner], axis=1)
    result = np.empty((len(queries), len(documents)), np.float32)
    products, hidden = np.empty(inner.shape, np.float32), np.empty(relu.shape, np.float32)
    for row, query in zip(result, queries, strict=True):
        # Row by row and in float64, so that a document's score does not depend on the other documents.
        np.multiply(inner, query[: layout.n_inner], out=products)
        np.maximum(np.add(relu, query[layout.n_inner : -2], out=hidden), 0, out=hidden)
        similarity = products.sum(axis=1, dtype=np.float64) if layout.n_inner else np.zeros(len(documents))
        units = np.full(len(documents), query[-2], np.float64)
        if layout.n_relu:
            units += hidden[:, : layout.n_positive].sum(axis=1, dtype=np.float64)
            units -= hidden[:, layout.n_positive :].sum(axis=1, dtype=np.float64)
        row[:] = similarity + documents[:, -2] * units + documents[:, -1] + query[-1]
    return result


def _join(parts: list[np.ndarray], gain: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return np.concatenate([*parts, gain[:, None], bias[:, None]], axis=1, dtype=np.float32)
