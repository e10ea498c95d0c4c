"""Latents as the kernel reads them, at one of three precisions, with a bound on what that costs a score.

*int8*, ReLU columns. Column j of a document is a count k of 0..255: ``b_j ~ low_j + unit w_j k`` with one float for all
and integers w_j of 1..127, so that signed w_j are the kernel's weights, exactly. A query's threshold ``(-a_j - low_j) /
(unit w_j)`` is rounded to a count t, too: ``relu(a_j + b_j) ~ unit w_j (max(k, t) - t)``. As |relu(x) - relu(y)| <=
|x - y|, a score is wrong by at most the sum of both roundings over the columns.

*int8*, inner-product columns: ``b_j ~ low_j + step_j k``; a query's ``a_j step_j`` are integers of 14 bits times a unit
of its own. By Cauchy and Schwarz a score is wrong by at most norm(a) times the norm of the document's rounding.

*float16*: the same, with the format's rounding. *float32*: no rounding but the sum's. A layout with both kinds of
columns has the sum of both bounds, ReLU columns' times the documents' gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rabtriever.kernels import BLOCK
from rabtriever.scoring.layout import ScoreLayout

PRECISIONS = {"int8": np.uint8, "float16": np.float16, "float32": np.float32}
LOW_PLANE_SCALE = 128  # the first of a query's two planes counts so many times
MAX_QUERY_INT = 127 * LOW_PLANE_SCALE
EPS = float(np.finfo(np.float32).eps)
BLOCKS_PER_CHUNK = 256  # quantised at a time, for memory


class QuantizedQueries(NamedTuple):
    """Queries as the kernel reads them; inner-product and ReLU columns are each padded to fours for int8.

    Attributes:
        inner: (n, planes, inner columns) float32 or int8; None if the layout has none.
        thresholds: (n, ReLU columns) float32 or uint8; None if the layout has none.
        weights: (ReLU columns,) float32 or int8, of all queries; None if the layout has none.
        units: float32 (n, 3), log-odds of one count of the inner product and of the ReLU sum, and what is added to the
            latter before it is multiplied by a document's gain.
        constant: float32 (n,), to add to the kernel's scores.
        error: float32 (n,), the most that a score can be wrong by.
    """

    inner: np.ndarray | None
    thresholds: np.ndarray | None
    weights: np.ndarray | None
    units: np.ndarray
    constant: np.ndarray
    error: np.ndarray


class _Part(NamedTuple):
    """One kind of columns of some queries: arrays for the kernel, and per query (n,) float64 what they amount to."""

    values: np.ndarray
    unit: np.ndarray | float
    constant: np.ndarray | float
    error: np.ndarray | float


@dataclass(frozen=True)
class QuantizedLatents:
    """Documents as the kernel reads them.

    Attributes:
        blocks: (n_blocks, columns, 64) uint16 (float16's bits) or float32, or (n_blocks, columns / 4, 64, 4) uint8, in
            which inner-product and ReLU columns are each padded to fours.
        gain: float32 (n_blocks * 64,); 0 behind the last document, as is ``bias``.
        bias: float32 (n_blocks * 64,).
        low: float32 (width,), of int8: the value of a count of 0; ``step``: of one count.
        unit: Of int8: what the ReLU columns' steps are integer multiples of.
        layout: What the latents' columns mean.
        error: Largest rounding of a document: the Euclidean norm over inner-product columns, and the sum of absolutes
            over ReLU columns, times the document's gain.
        size: Largest document itself, measured likewise, without gain.
        offset: Largest absolute bias.
        max_gain: Largest gain.
    """

    blocks: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    low: np.ndarray
    step: np.ndarray
    unit: float
    layout: ScoreLayout
    error: Sequence[float]
    size: Sequence[float]
    offset: float
    max_gain: float

    @classmethod
    def encode(cls, latents: np.ndarray, layout: ScoreLayout, precision: str) -> QuantizedLatents:
        """Quantises latents float32 (n, dim)."""
        values, n = latents[:, :-2], len(latents)
        int8, group = precision == "int8", 4 if precision == "int8" else 1
        low, step, unit = _grid(values, layout) if int8 else (np.zeros(layout.width), np.ones(layout.width), 1.0)
        low, step = low.astype(np.float32), step.astype(np.float32)
        first_relu = -(-layout.n_inner // group) * group
        columns = np.r_[: layout.n_inner, first_relu : first_relu + layout.n_relu]
        n_blocks, n_groups = -(-n // BLOCK), first_relu // group - (-layout.n_relu // group)
        blocks = np.zeros((n_blocks, n_groups, BLOCK, group), PRECISIONS[precision])
        gain, bias = (np.pad(latents[:, column], (0, n_blocks * BLOCK - n)) for column in (-2, -1))
        error, size = np.zeros(2), np.zeros(2)
        for first in range(0, n_blocks, BLOCKS_PER_CHUNK):
            rows = slice(first * BLOCK, min(n, (first + BLOCKS_PER_CHUNK) * BLOCK))
            chunk = values[rows]
            codes = (np.rint((chunk - low) / step).clip(0, 255) if int8 else chunk).astype(blocks.dtype)
            error = np.maximum(error, _largest(codes.astype(np.float32) * step + low - chunk, layout, gain[rows]))
            size = np.maximum(size, _largest(chunk, layout))
            padded = np.zeros((-(-len(chunk) // BLOCK) * BLOCK, n_groups * group), blocks.dtype)
            padded[: len(chunk), columns] = codes
            blocks[first : first + BLOCKS_PER_CHUNK] = padded.reshape(-1, BLOCK, n_groups, group).transpose(0, 2, 1, 3)
        if not int8:
            blocks = blocks[..., 0].view(np.uint16) if precision == "float16" else blocks[..., 0]
        offset, max_gain = float(np.abs(bias).max(initial=0)), float(gain.max(initial=0))
        return cls(blocks, gain, bias, low, step, unit, layout, error.tolist(), size.tolist(), offset, max_gain)

    @property
    def nbytes(self) -> int:
        """Bytes of blocks, gains and biases."""
        return self.blocks.nbytes + self.gain.nbytes + self.bias.nbytes

    @property
    def inner(self) -> QuantizedLatents:
        """The same, read without ReLU columns, whose rounding then costs no score."""
        error, size = ((values[0], 0.0) for values in (self.error, self.size))
        return replace(self, layout=self.layout.inner, error=error, size=size)

    def quantize(self, queries: np.ndarray) -> QuantizedQueries:
        """Quantises finite query latents float32 (n, dim) for these codes; what the layout does not name is left."""
        queries = queries.astype(np.float64)
        left, right = np.split(queries[:, :-2], [self.layout.n_inner], axis=1)
        gained, constant = queries[:, -2], queries[:, -1]
        int8 = self.blocks.dtype == np.uint8
        units, error = np.ones((len(queries), 3)), np.zeros(len(queries))
        size = np.abs(constant) + self.offset + self.max_gain * np.abs(gained)
        inner = thresholds = weights = None
        if self.layout.n_inner:
            part = self._quantize_inner_queries(left) if int8 else _Part(left.astype(np.float32)[:, None], 1, 0, 0)
            length = np.linalg.norm(left, axis=1)
            inner, units[:, 0], constant = part.values, part.unit, constant + part.constant
            error, size = error + part.error + length * self.error[0], size + length * self.size[0]
        if self.layout.n_relu:
            signs = np.where(np.arange(self.layout.n_relu) < self.layout.n_positive, 1.0, -1.0)
            part = self._quantize_relu_queries(right, signs) if int8 else _Part(-right, 1, right @ signs, 0)
            thresholds = part.values if int8 else part.values.astype(np.float32)
            step = np.rint(self.step[self.layout.n_inner :] / self.unit) if int8 else 1
            weights = _pad_to_quads(signs * step, np.int8) if int8 else signs.astype(np.float32)
            units[:, 1], gained = part.unit, gained + part.constant
            error = error + self.max_gain * part.error + self.error[1]
            size = size + self.max_gain * (np.abs(right).sum(1) + self.size[1])
        units[:, 2] = gained
        # A sum of float32, in whatever order, here and in the reference.
        error += 2 * EPS * self.layout.dim * size
        floats = [values.astype(np.float32) for values in (units, constant, error)]
        return QuantizedQueries(inner, thresholds, weights, *floats)

    def _quantize_inner_queries(self, a: np.ndarray) -> _Part:
        low, step = self.low[: self.layout.n_inner], self.step[: self.layout.n_inner]
        exact = a * step
        unit = np.maximum(np.abs(exact).max(1), 1e-30) / MAX_QUERY_INT
        integers = np.rint(exact / unit[:, None])
        high = np.floor(integers / LOW_PLANE_SCALE + 0.5)
        rest = exact - unit[:, None] * integers  # counts lie within 127.5 of 127.5
        planes = _pad_to_quads(np.stack([high, integers - LOW_PLANE_SCALE * high], axis=1), np.int8)
        return _Part(planes, unit, a @ low + 127.5 * rest.sum(1), 127.5 * np.abs(rest).sum(1))

    def _quantize_relu_queries(self, a: np.ndarray, signs: np.ndarray) -> _Part:
        low, step = self.low[self.layout.n_inner :], self.step[self.layout.n_inner :]
        exact = (-a - low) / step
        thresholds = np.rint(exact.clip(0, 255))
        taken = np.where(exact < 0, exact, thresholds)  # below 0 it is passed by all documents: nothing is rounded
        # A rounded threshold is wrong for documents above it, for others not: by half of that about the middle.
        half = np.where((exact > 0) & (exact < 255), thresholds - exact, 0) * step / 2
        constant = (half - taken * step) @ signs
        return _Part(_pad_to_quads(thresholds, np.uint8), self.unit, constant, np.abs(half).sum(1))


def _grid(values: np.ndarray, layout: ScoreLayout) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the least value and the step of each column, and what ReLU columns' steps are multiples of."""
    values = values if len(values) else np.zeros((1, layout.width))
    low = values.min(axis=0).astype(np.float64)
    inner, relu = np.split((values.max(axis=0) - low) / 255, [layout.n_inner])
    unit = max(float(relu.max(initial=0)), 1e-30) / 127
    inner = np.maximum(inner, max(float(inner.max(initial=0)), 1e-30) / 2**20)
    return low, np.concatenate([inner, unit * np.ceil(relu / unit - 1e-9).clip(1, 127)]), unit


def _largest(rows: np.ndarray, layout: ScoreLayout, gain: np.ndarray | float = 1.0) -> np.ndarray:
    """Returns the largest norm over inner columns, and sum of absolutes over ReLU columns times gain: float64 (2,)."""
    inner, relu = np.split(rows, [layout.n_inner], axis=1)
    sums = np.linalg.norm(inner, axis=1), gain * np.abs(relu).sum(axis=1)
    return np.array([part.max(initial=0) for part in sums], np.float64)


def _pad_to_quads(values: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    """Returns integers, their last axis padded to a multiple of four."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % 4)]).astype(dtype)
