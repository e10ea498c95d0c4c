"""The steps between an encoder's matrix products, row by row.

What a product reads is mixed by a Hadamard matrix, so that no dimension sticks out, and quantised as it is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rabtriever.kernels.compile import njit
from rabtriever.llm.int8.elementwise import FASTMATH, LOG2_E, exp2_fraction, mix, quantize


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def add_and_layer_norm(
    hidden: Any, count: Any, update: Any, factors: Any, bias: Any, norm: Any, epsilon: Any, block: Any, codes: Any
) -> None:
    """Replaces the residual stream by the layer norm of its sum with what a sublayer returned; quantises that.

    Args:
        hidden: float32 (n, H), changed.
        count: Rows to take.
        update: float32 (n, at least H), to be multiplied by ``factors`` (n,).
        factors: Changed: the scales of ``codes``.
        bias: float32 (H,), of the sublayer.
        norm: float32 (2, H), weight and bias of the norm.
        epsilon: The norm's.
        block: Of :func:`rabtriever.llm.int8.elementwise.mix`.
        codes: uint8 (n, at least H) to fill.
    """
    size = hidden.shape[1]
    mixed, inverse_size = np.empty(size, np.float32), np.float32(1) / np.float32(size)
    for i in range(count):
        row, total, squares = hidden[i], np.float32(0), np.float32(0)
        for j in range(size):
            value = row[j] + factors[i] * update[i, j] + bias[j]
            row[j] = value
            total += value
        mean = total * inverse_size
        for j in range(size):
            squares += (row[j] - mean) * (row[j] - mean)
        scale = np.float32(1) / np.sqrt(squares * inverse_size + epsilon)
        for j in range(size):
            value = (row[j] - mean) * scale * norm[0, j] + norm[1, j]
            row[j] = value
            mixed[j] = value
        mix(mixed, size, block)
        factors[i] = quantize(mixed, size, codes[i])


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def add_and_rms_norm(
    hidden: Any, count: Any, update: Any, factors: Any, norm: Any, epsilon: Any, block: Any, codes: Any
) -> None:
    """Adds the RMS norm of what a sublayer returned to the residual stream; quantises the next sublayer's RMS norm.

    As :func:`add_and_layer_norm`; ``norm`` has the weights of both norms.
    """
    size = hidden.shape[1]
    mixed = np.empty(size, np.float32)
    for i in range(count):
        row, squares = hidden[i], np.float32(0)
        for j in range(size):
            mixed[j] = factors[i] * update[i, j]
            squares += mixed[j] * mixed[j]
        scale, squares = np.float32(1) / np.sqrt(squares / np.float32(size) + epsilon), np.float32(0)
        for j in range(size):
            value = row[j] + mixed[j] * scale * norm[0, j]
            row[j] = value
            squares += value * value
        scale = np.float32(1) / np.sqrt(squares / np.float32(size) + epsilon)
        for j in range(size):
            mixed[j] = row[j] * scale * norm[1, j]
        mix(mixed, size, block)
        factors[i] = quantize(mixed, size, codes[i])


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def gelu(up: Any, bias: Any, count: Any, in_scales: Any, block: Any, codes: Any, scales: Any) -> None:
    """Quantises the gelu of ``up + bias``, mixed; erf by Abramowitz and Stegun's 7.1.26, within 2e-7.

    Args:
        up: float32 (n, at least units), to be multiplied by ``in_scales`` (n,).
        bias: float32 (units,).
        count: Rows to take.
        in_scales: float32 (n,).
        block: Of :func:`rabtriever.llm.int8.elementwise.mix`.
        codes: uint8 (n, at least units) to fill.
        scales: float32 (n,) to fill.
    """
    size = len(bias)
    values, powers, bits = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.int32)
    for i in range(count):
        row, scale = up[i], in_scales[i]
        for j in range(size):
            value = row[j] * scale + bias[j]
            values[j] = value
            powers[j] = value * value * (np.float32(-0.5) * LOG2_E)
        _exp2(powers, bits)
        for j in range(size):
            value = values[j]
            t = np.float32(1) / (np.float32(1) + np.float32(0.3275911 / 2**0.5) * abs(value))
            p = np.float32(1.061405429)
            p = p * t + np.float32(-1.453152027)
            p = p * t + np.float32(1.421413741)
            p = p * t + np.float32(-0.284496736)
            p = p * t + np.float32(0.254829592)
            beyond = np.float32(0.5) * p * t * powers[j]  # the normal distribution's mass beyond |value|
            values[j] = max(value, np.float32(0)) - abs(value) * beyond
        mix(values, size, block)
        scales[i] = quantize(values, size, codes[i])


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def gelu_gate(gate_up: Any, size: Any, count: Any, in_scales: Any, block: Any, codes: Any, scales: Any) -> None:
    """Quantises ``gelu(gate) * up``, mixed, with tanh's approximation of gelu; as :func:`gelu`."""
    values, powers, bits = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.int32)
    for i in range(count):
        row, scale = gate_up[i], in_scales[i]
        for j in range(size):
            value = row[j] * scale
            values[j] = value
            cubic = value + np.float32(0.044715) * value * value * value
            powers[j] = cubic * (np.float32(-2 * 0.7978845608028654) * LOG2_E)
        _exp2(powers, bits)
        for j in range(size):
            values[j] = values[j] / (np.float32(1) + powers[j]) * (row[size + j] * scale)
        mix(values, size, block)
        scales[i] = quantize(values, size, codes[i])


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def _exp2(values: Any, bits: Any) -> None:
    """Replaces values by 2 ** value, between 2 ** -126 and 2 ** 126; ``bits``, int32, is overwritten."""
    powers = bits.view(np.float32)
    for j in range(len(values)):
        value = max(min(values[j], np.float32(126)), np.float32(-126))
        whole = np.floor(value)
        values[j] = value - whole
        bits[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    for j in range(len(values)):
        values[j] = exp2_fraction(values[j]) * powers[j]
