"""Latents as the kernel reads them, at one of three precisions, with a bound on what that costs a score.

*int8*, ReLU. Dimension j of a document is a count k of 0..255: ``b_j ~ low_j + unit w_j k`` with one float for all and
whole w_j of 1..127, so that signed w_j are the kernel's weights, exactly. A query's threshold ``(-a_j - low_j) / (unit
w_j)`` is rounded to a count t, too: ``relu(a_j + b_j) ~ unit w_j (max(k, t) - t)``. As |relu(x) - relu(y)| <= |x - y|,
a score is wrong by at most the sum of both roundings over the dimensions.

*int8*, inner product: ``b_j ~ low_j + step_j k``; a query's ``a_j step_j`` are whole numbers of 14 bits times a unit of
its own. By Cauchy and Schwarz a score is wrong by at most norm(a) times the norm of the document's rounding.

*float16*: the same, with the format's rounding. *float32*: no rounding but the sum's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rabtriever.kernels.scan import BLOCK
from rabtriever.scoring.layout import ScoreLayout

PRECISIONS = {"int8": np.uint8, "float16": np.float16, "float32": np.float32}
PLANE = 128  # the first of two planes counts so many times
LARGEST = 127 * PLANE  # of a query's whole numbers
EPS = float(np.finfo(np.float32).eps)


class QuantizedQueries(NamedTuple):
    """Queries as the kernel reads them.

    Attributes:
        thresholds: (n, dims); None for an inner product.
        weights: (n, planes, dims).
        unit: float32 (n,), log-odds of one count.
        constant: float32 (n,), to add to the kernel's scores.
        error: float32 (n,), the most that a score can be wrong by.
    """

    thresholds: np.ndarray | None
    weights: np.ndarray
    unit: np.ndarray
    constant: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class QuantizedLatents:
    """Documents as the kernel reads them.

    Attributes:
        blocks: (n_blocks, dims, 64) uint16 (float16's bits) or float32, or (n_blocks, dims / 4, 64, 4) uint8.
        bias: float32 (n_blocks * 64,); 0 behind the last document.
        low: float32 (m,), of int8: the value of a count of 0.
        step: float32 (m,), of int8: the value of one count.
        unit: Of int8, ReLU: what the steps are whole multiples of.
        layout: What the latents' columns mean.
        error: Largest rounding of a document: the sum of absolutes, or the Euclidean norm for an inner product.
        size: The same of a document itself.
        offset: Largest absolute bias.
    """

    blocks: np.ndarray
    bias: np.ndarray
    low: np.ndarray
    step: np.ndarray
    unit: float
    layout: ScoreLayout
    error: float
    size: float
    offset: float

    @classmethod
    def encode(cls, latents: np.ndarray, layout: ScoreLayout, precision: str) -> QuantizedLatents:
        """QuantizedLatents of latents float32 (n, m + 1)."""
        values = latents[:, :-1]
        n, m = values.shape
        whole, group = precision == "int8", 4 if precision == "int8" else 1
        low, step, unit = _scale(values, layout) if whole else (np.zeros(m), np.ones(m), 1.0)
        low, step = low.astype(np.float32), step.astype(np.float32)
        n_blocks, dims = -(-n // BLOCK), -(-m // group)
        blocks = np.zeros((n_blocks, dims, BLOCK, group), PRECISIONS[precision])
        error = size = 0.0
        for first in range(0, n_blocks, 256):  # some at a time, for memory
            some = values[first * BLOCK : (first + 256) * BLOCK]
            codes = (np.rint((some - low) / step).clip(0, 255) if whole else some).astype(blocks.dtype)
            error = max(error, _largest(codes.astype(np.float32) * step + low - some, layout))
            size = max(size, _largest(some, layout))
            padded = np.pad(codes, [(0, -len(some) % BLOCK), (0, dims * group - m)])
            blocks[first : first + 256] = padded.reshape(-1, BLOCK, dims, group).transpose(0, 2, 1, 3)
        bias = np.pad(latents[:, -1], (0, n_blocks * BLOCK - n))
        if not whole:
            blocks = blocks[..., 0].view(np.uint16) if precision == "float16" else blocks[..., 0]
        return cls(blocks, bias, low, step, unit, layout, error, size, float(np.abs(bias).max(initial=0)))

    def prepare(self, queries: np.ndarray) -> QuantizedQueries:
        """Query latents float32 (n, m + 1) for these codes."""
        a, constant = queries[:, :-1].astype(np.float64), queries[:, -1].astype(np.float64)
        whole = self.blocks.dtype == np.uint8
        if not self.layout.n_relu:
            thresholds, weights, unit, more, wrong = self._inner_counts(a) if whole else _inner(a)
            length = np.linalg.norm(a, axis=1)
            wrong, size = wrong + length * self.error, length * self.size
        else:
            signs = np.where(np.arange(a.shape[1]) < self.layout.n_positive, 1.0, -1.0)
            thresholds, weights, unit, more, wrong = self._relu_counts(a, signs) if whole else _relu(a, signs)
            wrong, size = wrong + self.error, np.abs(a).sum(1) + self.size
        # A sum of float32, in whatever order, here and in the reference.
        wrong += 2 * EPS * a.shape[1] * (size + np.abs(constant) + self.offset)
        floats = [np.asarray(values, np.float32) for values in (unit, constant + more, wrong)]
        return QuantizedQueries(thresholds, weights, *floats)

    def _relu_counts(self, a: np.ndarray, signs: np.ndarray) -> tuple[Any, ...]:
        wanted = (-a - self.low) / self.step
        thresholds = np.rint(wanted.clip(0, 255))
        taken = np.where(wanted < 0, wanted, thresholds)  # below 0 it is passed by all documents: nothing is rounded
        # A rounded threshold is wrong for documents above it, for others not: by half of that about the middle.
        half = np.where((wanted > 0) & (wanted < 255), thresholds - wanted, 0) * self.step / 2
        weights = np.broadcast_to(np.rint(self.step / self.unit) * signs, (len(a), 1, a.shape[1]))
        more = (half - taken * self.step) @ signs
        return (
            _fours(thresholds, np.uint8),
            _fours(weights, np.int8),
            np.full(len(a), self.unit),
            more,
            np.abs(half).sum(1),
        )

    def _inner_counts(self, a: np.ndarray) -> tuple[Any, ...]:
        wanted = a * self.step
        unit = np.maximum(np.abs(wanted).max(1), 1e-30) / LARGEST
        whole = np.rint(wanted / unit[:, None])
        high = np.floor(whole / PLANE + 0.5)
        rest = wanted - unit[:, None] * whole  # counts lie within 127.5 of 127.5
        more = a @ self.low + 127.5 * rest.sum(1)
        weights = np.stack([high, whole - PLANE * high], axis=1)
        return None, _fours(weights, np.int8), unit, more, 127.5 * np.abs(rest).sum(1)


def _scale(values: np.ndarray, layout: ScoreLayout) -> tuple[np.ndarray, np.ndarray, float]:
    """The least value and the step of each dimension, and what steps are multiples of."""
    low = values.min(axis=0, initial=np.inf).astype(np.float64) if len(values) else np.zeros(values.shape[1])
    span = (values.max(axis=0) - low) / 255 if len(values) else np.zeros(values.shape[1])
    widest = max(float(span.max(initial=0)), 1e-30)
    if not layout.n_relu:
        return low, np.maximum(span, widest / 2**20), 0.0
    unit = widest / 127
    return low, unit * np.ceil(span / unit - 1e-9).clip(1, 127), unit


def _relu(a: np.ndarray, signs: np.ndarray) -> tuple[Any, ...]:
    weights = np.broadcast_to(signs.astype(np.float32), (len(a), 1, a.shape[1])).copy()
    return (-a).astype(np.float32), weights, np.ones(len(a)), a @ signs, np.zeros(len(a))


def _inner(a: np.ndarray) -> tuple[Any, ...]:
    return None, a.astype(np.float32)[:, None], np.ones(len(a)), np.zeros(len(a)), np.zeros(len(a))


def _largest(rows: np.ndarray, layout: ScoreLayout) -> float:
    sums = np.linalg.norm(rows, axis=1) if not layout.n_relu else np.abs(rows).sum(axis=1)
    return float(sums.max(initial=0))


def _fours(values: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    """As whole numbers; dimensions in fours."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % 4)]).astype(dtype)
