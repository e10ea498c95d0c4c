"""The steps between the matrix products, row by row.

Rows are quantised as they are made: ``value = scale * (code - 128)`` with one scale a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rabtriever.kernels import LANES
from rabtriever.kernels.compile import njit
from rabtriever.llm.int8.matmul import butterfly

# What LLVM may do to sums, in all these files. No `nnan`: a NaN of the LLM must stay visible.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
LOG2_E = np.float32(1.4426950408889634)


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def add_and_normalise(
    hidden: Any, count: Any, update: Any, update_scales: Any, epsilon: Any, codes: Any, scales: Any
) -> None:
    """Adds what a sublayer returned to the residual stream; then quantises its RMS norm.

    Args:
        hidden: float32 (n, H), changed.
        count: Rows to take.
        update: float32 (n, at least H), to be multiplied by ``update_scales`` (n,).
        epsilon: The norm's.
        codes: uint8 (n, at least H) to fill.
        scales: float32 (n,) to fill.
    """
    size = hidden.shape[1]
    for i in range(count):
        row, inverse = hidden[i], _add(hidden[i], update[i], update_scales[i], epsilon)
        top = _max_magnitude(row, size)
        scales[i] = top / np.float32(127) * inverse  # NaN if the row has one
        encode(row, size, np.float32(127) / top, codes[i])


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def add_and_finish(hidden: Any, count: Any, update: Any, update_scales: Any, epsilon: Any) -> None:
    """Does as :func:`add_and_normalise`, but the normalised rows replace ``hidden``."""
    for i in range(count):
        row, inverse = hidden[i], _add(hidden[i], update[i], update_scales[i], epsilon)
        for j in range(len(row)):
            row[j] *= inverse


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def silu_gate(gate_up: Any, size: Any, count: Any, in_scales: Any, block: Any, codes: Any, scales: Any) -> None:
    """Quantises silu(gate) * up, rotated by a Hadamard matrix so that no unit sticks out.

    Args:
        gate_up: float32 (n, at least 2 * size), to be multiplied by ``in_scales`` (n,).
        size: Units.
        count: Rows to take.
        block: A power of two; units ``16 * b + lane`` of so many neighbouring b are mixed.
        codes: uint8 (n, at least size) to fill.
        scales: float32 (n,) to fill.
    """
    values, fractions = np.empty(size, np.float32), np.empty(size, np.float32)
    bits = np.empty(size, np.int32)
    powers = bits.view(np.float32)
    for i in range(count):
        row, scale = gate_up[i], in_scales[i]
        for j in range(size):
            value = max(min(row[j] * scale * -LOG2_E, np.float32(126)), np.float32(-126))
            whole = np.floor(value)
            fractions[j] = value - whole
            bits[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        for j in range(size):
            decay = exp2_fraction(fractions[j]) * powers[j]
            values[j] = row[j] * scale / (np.float32(1) + decay) * (row[size + j] * scale)
        mix(values, size, block)
        scales[i] = quantize(values, size, codes[i])


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def quantize(values: Any, size: Any, codes: Any) -> Any:
    """Fills ``codes``; returns the scale."""
    top = _max_magnitude(values, size)
    encode(values, size, np.float32(127) / top, codes)
    return top / np.float32(127) + _nan_if_not_finite(values, size)


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def encode(values: Any, size: Any, inverse: Any, codes: Any) -> None:
    """Rounds to the nearest of 255 codes around 128."""
    for j in range(size):
        codes[j] = np.uint8(np.int32(values[j] * inverse + np.float32(128.5)))


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def exp2_fraction(fraction: Any) -> Any:
    """Returns 2 ** fraction on [0, 1]: Taylor's series around 1/2; relative error 2e-7."""
    x = (fraction - np.float32(0.5)) * np.float32(0.6931471805599453)
    p = np.float32(1 / 5040)
    p = p * x + np.float32(1 / 720)
    p = p * x + np.float32(1 / 120)
    p = p * x + np.float32(1 / 24)
    p = p * x + np.float32(1 / 6)
    p = p * x + np.float32(0.5)
    p = p * x + np.float32(1)
    p = p * x + np.float32(1)
    return p * np.float32(1.4142135623730951)


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def _add(row: Any, update: Any, factor: Any, epsilon: Any) -> Any:
    """Adds in place; returns what RMS norm then multiplies by."""
    squares = np.float32(0)
    for j in range(len(row)):
        value = row[j] + factor * update[j]
        row[j] = value
        squares += value * value
    return np.float32(1) / np.sqrt(squares / np.float32(len(row)) + epsilon)


@njit(nogil=True, fastmath=FASTMATH | {"nnan"}, error_model="numpy")
def _max_magnitude(values: Any, size: Any) -> Any:
    """Returns the largest magnitude, at least 1e-30."""
    top = np.float32(1e-30)
    for j in range(size):
        top = max(top, abs(values[j]))
    return top


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def _nan_if_not_finite(values: Any, size: Any) -> Any:
    """Returns 0, or NaN if a value is not finite: codes would hide it."""
    check = np.float32(0)
    for j in range(size):
        check += values[j] * np.float32(0)
    return check


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def mix(values: Any, size: Any, block: Any) -> None:
    """Multiplies by Hadamard's matrix of ``block`` rows over the units' upper index, by butterflies of registers."""
    span = 1
    while span < block:
        step = span * LANES
        for start in range(0, size, 2 * step):
            for j in range(start, start + step, LANES):
                butterfly(values, j, j + step)  # type: ignore[call-arg]
        span *= 2
