"""Attention of packed texts, each over its past and itself, in float32 over keys and values in float16."""

from __future__ import annotations

from typing import Any

import numpy as np

from rabtriever.kernels.compile import njit
from rabtriever.llm.int8.elementwise import FASTMATH, LOG2_E, exp2_fraction, quantize
from rabtriever.llm.int8.matmul import TILE_COLUMNS, TILE_ROWS, from_half, multiply, to_half


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def apply_rope_and_store_kv(
    qkv: Any, first: Any, in_scales: Any, bias: Any, norms: Any, epsilon: Any, batch: Any, layer: Any
) -> None:
    """Scales, adds the bias, perhaps normalises and rotates by position; stores keys and values.

    Args:
        qkv: float32 (n, at least columns), to be multiplied by ``in_scales``. Changed: queries are in it.
        first: The first row's number in the :class:`forward.Batch`.
        in_scales: float32 (rows to take,).
        bias: float32 (columns,).
        norms: float32 (2, size), RMS norm weights of queries and keys, or (0, size) where there are none.
        epsilon: Of the RMS norms.
        batch: Has the positions, their cosines and sines, and the store.
        layer: Number of the layer.
    """
    store, rope, columns = batch.store[layer % len(batch.store)], batch.rope, len(bias)
    kv_width, size = store.shape[1], 2 * rope.shape[2]
    half, stored = size // 2, columns - kv_width
    raw = np.empty(size, np.float32)
    for i in range(len(in_scales)):
        scale, position, cache_row = in_scales[i], batch.positions[first + i], batch.cache_rows[first + i]
        for c in range(columns):
            qkv[i, c] = qkv[i, c] * scale + bias[c]
        for at in range(0, columns - kv_width // 2, size):
            for d in range(size):
                raw[d] = qkv[i, at + d]
            if len(norms):
                _normalise(raw, norms[np.int64(at >= stored)], epsilon)
            for d in range(half):
                qkv[i, at + d] = raw[d] * rope[0, position, d] - raw[half + d] * rope[1, position, d]
            for d in range(half):
                qkv[i, at + half + d] = raw[half + d] * rope[0, position, d] + raw[d] * rope[1, position, d]
        for c in range(kv_width):
            store[cache_row, c] = to_half(qkv[i, stored + c])  # type: ignore[call-arg]


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def attention(  # noqa: C901 (loops, not cases)
    queries: Any, offset: Any, count: Any, batch: Any, layer: Any, sight: Any, shape: Any, codes: Any, scales: Any
) -> None:
    """Computes attention of each text over its past and itself, quantised.

    A register holds 16 query rows (a position's heads of one key head, then the next position's): what is summed or
    compared runs from register to register, and keys and values are read as they lie.

    Args:
        queries: float32 (at least ``count``, at least heads * size) from :func:`apply_rope_and_store_kv`.
        offset: The first row's number in the :class:`forward.Batch`.
        count: Rows to take.
        batch: Has keys and values.
        layer: Number of the layer.
        sight: How many tokens a query sees behind and ahead of itself; none ahead is causal.
        shape: (heads, key heads, size of a head, ...).
        codes: uint8 (at least ``count``, at least heads * size) to fill.
        scales: float32 (at least ``count``,) to fill.
    """
    heads, key_heads, size = shape[:3]
    starts, past_starts, past_lengths, cache_rows = batch.ends, batch.past_starts, batch.past_lengths, batch.cache_rows
    past, store = batch.past[layer], batch.store[layer % len(batch.store)]
    width, group = heads * size, heads // key_heads
    longest = 0
    for text in range(len(past_starts)):
        longest = max(longest, past_lengths[text] + starts[text + 1] - starts[text])
    longest = (longest + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    padded_size = (size + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    keys, values = np.zeros((longest, size), np.float32), np.zeros((longest, padded_size), np.float32)
    scaled_queries = np.zeros((size, TILE_COLUMNS), np.float32)
    scores, outputs = np.empty((longest, TILE_COLUMNS), np.float32), np.empty((padded_size, TILE_COLUMNS), np.float32)
    totals = np.empty(TILE_COLUMNS, np.float32)
    first_keys, last_keys = np.empty(TILE_COLUMNS, np.int32), np.empty(TILE_COLUMNS, np.int32)
    biased, centre = len(batch.position_bias) > 0, batch.position_bias.shape[1] // 2
    result = np.empty((longest, width), np.float32)
    sharpness = LOG2_E / np.sqrt(np.float32(size))
    for text in range(len(past_starts)):
        begin, before = starts[text], past_lengths[text]
        first, last = max(begin, offset), min(starts[text + 1], offset + count)
        if first >= last:
            continue
        own, rows = first - offset, (last - first) * group
        seen = min(starts[text + 1], last + sight[1])  # the first token of the text that none of these rows sees
        for head in range(key_heads):
            for i in range(before):
                _load_kv(past, past_starts[text] + i, head, size, keys, values, i)
            for i in range(seen - begin):
                _load_kv(store, cache_rows[begin + i], head, size, keys, values, before + i)
            for tile in range(0, rows, TILE_COLUMNS):
                for r in range(TILE_COLUMNS):  # columns beyond the last row repeat it
                    i, member = divmod(min(tile + r, rows - 1), group)
                    position = before + first - begin + i
                    first_keys[r] = max(0, position - sight[0])
                    last_keys[r] = min(before + seen - begin - 1, position + sight[1])
                    at = (head * group + member) * size
                    for d in range(size):
                        scaled_queries[d, r] = queries[own + i, at + d] * sharpness
                reach = last_keys[TILE_COLUMNS - 1] + 1
                for key in range(0, reach, TILE_ROWS):
                    multiply(keys, key, scaled_queries, scores, key, size, False)  # type: ignore[call-arg]
                if biased:
                    bias = batch.position_bias[head]
                    for r in range(TILE_COLUMNS):
                        nearest = centre - (before + first - begin + min(tile + r, rows - 1))
                        for key in range(reach):
                            scores[key, r] += bias[nearest + key]
                _softmax(scores, first_keys, last_keys, totals)
                for d in range(0, size, TILE_ROWS):
                    multiply(values, d, scores, outputs, d, reach, True)  # type: ignore[call-arg]
                for r in range(min(TILE_COLUMNS, rows - tile)):
                    i, member = divmod(tile + r, group)
                    at = (head * group + member) * size
                    for d in range(size):
                        result[i, at + d] = outputs[d, r] / totals[r]
        for i in range(last - first):
            scales[own + i] = quantize(result[i], width, codes[own + i])


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def _normalise(values: Any, weights: Any, epsilon: Any) -> None:
    """Normalises by the root of the mean square, in place."""
    squares = np.float32(0)
    for d in range(len(values)):
        squares += values[d] * values[d]
    inverse = np.float32(1) / np.sqrt(squares / np.float32(len(values)) + epsilon)
    for d in range(len(values)):
        values[d] *= inverse * weights[d]


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def _load_kv(store: Any, row: Any, head: Any, size: Any, keys: Any, values: Any, row_out: Any) -> None:
    """Copies a token's key and value of one head as float32."""
    at_key, at_value = head * size, store.shape[1] // 2 + head * size
    for d in range(size):
        keys[row_out, d] = from_half(store[row, at_key + d])  # type: ignore[call-arg]
    for d in range(size):
        values[row_out, d] = from_half(store[row, at_value + d])  # type: ignore[call-arg]


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def _softmax(scores: Any, first_keys: Any, last_keys: Any, totals: Any) -> None:
    """Computes softmax down each column's rows between two keys, in place, but for the division by ``totals``."""
    maxima, fractions = np.empty(TILE_COLUMNS, np.float32), np.empty(TILE_COLUMNS, np.float32)
    bits = np.empty(TILE_COLUMNS, np.int32)
    powers = bits.view(np.float32)
    reach = last_keys[TILE_COLUMNS - 1] + 1
    for key in range(first_keys[TILE_COLUMNS - 1]):
        for r in range(TILE_COLUMNS):
            if key < first_keys[r]:
                scores[key, r] = np.float32(-1e30)
    for key in range(last_keys[0] + 1, reach):
        for r in range(TILE_COLUMNS):
            if key > last_keys[r]:
                scores[key, r] = np.float32(-1e30)
    _column_max(scores, reach, maxima)
    totals[:] = np.float32(0)
    for key in range(reach):
        for r in range(TILE_COLUMNS):
            value = max(scores[key, r] - maxima[r], np.float32(-127))
            whole = np.floor(value)
            fractions[r] = value - whole
            bits[r] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        for r in range(TILE_COLUMNS):
            value = exp2_fraction(fractions[r]) * powers[r]
            scores[key, r] = value
            totals[r] += value


@njit(nogil=True, fastmath=FASTMATH | {"nnan"}, error_model="numpy")
def _column_max(scores: Any, count: Any, maxima: Any) -> None:
    """Computes each column's maximum over the first ``count`` rows."""
    maxima[:] = scores[0]
    for i in range(1, count):
        for r in range(TILE_COLUMNS):
            maxima[r] = max(maxima[r], scores[i, r])
