"""Attention of packed texts, each over its past and itself, in float32 over keys and values in float16."""

from __future__ import annotations

from typing import Any

import numpy as np

from rabtriever.kernels.compile import njit
from rabtriever.llm.int8.elementwise import FAST, LOG2_E, power, quantise
from rabtriever.llm.int8.matmul import ROWS, WIDTH, from_half, multiply, to_half


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def turn(
    qkv: Any,
    columns: Any,
    count: Any,
    in_scales: Any,
    bias: Any,
    norms: Any,
    epsilon: Any,
    rotary: Any,
    positions: Any,
    store: Any,
    places: Any,
) -> None:
    """Scale, bias, perhaps normalise and turn by position: queries in place, keys and values into the store.

    Args:
        qkv: float32 (n, at least ``columns``), to be multiplied by ``in_scales`` (n,). Changed.
        columns: (heads + 2 * key heads) * size.
        count: Rows to take.
        bias: float32 (columns,).
        norms: float32 (2, size), RMS norm weights of queries and keys, or (0, size) where there are none.
        epsilon: Theirs.
        rotary: float32 (2, positions, size / 2), cosine and sine.
        positions: int64 (n,).
        store: uint16 (rows, 2 * key heads * size), float16's bits.
        places: int64 (n,), each token's row there.
    """
    kept, size = store.shape[1], 2 * rotary.shape[2]
    half, stored = size // 2, columns - kept
    raw = np.empty(size, np.float32)
    for i in range(count):
        scale, position = in_scales[i], positions[i]
        for c in range(columns):
            qkv[i, c] = qkv[i, c] * scale + bias[c]
        for at in range(0, columns - kept // 2, size):
            for d in range(size):
                raw[d] = qkv[i, at + d]
            if len(norms):
                _normalise(raw, norms[np.int64(at >= stored)], epsilon)
            for d in range(half):
                qkv[i, at + d] = raw[d] * rotary[0, position, d] - raw[half + d] * rotary[1, position, d]
            for d in range(half):
                qkv[i, at + half + d] = raw[half + d] * rotary[0, position, d] + raw[d] * rotary[1, position, d]
        for c in range(kept):
            store[places[i], c] = to_half(qkv[i, stored + c])  # type: ignore[call-arg]


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def attend(  # noqa: C901 (loops, not cases)
    queries: Any,
    offset: Any,
    count: Any,
    starts: Any,
    past: Any,
    past_starts: Any,
    past_lengths: Any,
    store: Any,
    places: Any,
    heads: Any,
    key_heads: Any,
    size: Any,
    codes: Any,
    scales: Any,
) -> None:
    """Causal attention of each text over its past and itself, quantised.

    A register holds 16 query rows (a position's heads of one key head, then the next position's): what is summed or
    compared runs from register to register, and keys and values are read as they lie.

    Args:
        queries: float32 (at least ``count``, at least heads * size) from :func:`turn`, of the rows from ``offset`` on.
        offset: The first row, of all n.
        count: Rows to take.
        starts: int64 (texts + 1,), where each text's rows begin.
        past: uint16 (rows, 2 * key heads * size), keys and values of what was read before.
        past_starts: int64 (texts,), the first of a text's rows there.
        past_lengths: int64 (texts,), and how many.
        store: uint16 (rows, 2 * key heads * size), those of this call's tokens.
        places: int64 (n,), each row's row there.
        heads: How many there are of queries.
        key_heads: And of keys.
        size: Of a head.
        codes: uint8 (at least ``count``, at least heads * size) to fill.
        scales: float32 (at least ``count``,) to fill.
    """
    width, group = heads * size, heads // key_heads
    most = 0
    for text in range(len(past_starts)):
        most = max(most, past_lengths[text] + starts[text + 1] - starts[text])
    most = (most + ROWS - 1) // ROWS * ROWS
    deep = (size + ROWS - 1) // ROWS * ROWS
    keys, values = np.zeros((most, size), np.float32), np.zeros((most, deep), np.float32)
    turned, outputs = np.zeros((size, WIDTH), np.float32), np.empty((deep, WIDTH), np.float32)
    scores, fractions, bits = (
        np.empty((most, WIDTH), np.float32),
        np.empty(WIDTH, np.float32),
        np.empty(WIDTH, np.int32),
    )
    tops, totals, limits = np.empty(WIDTH, np.float32), np.empty(WIDTH, np.float32), np.empty(WIDTH, np.int32)
    result = np.empty((most, width), np.float32)
    sharpness = LOG2_E / np.sqrt(np.float32(size))
    for text in range(len(past_starts)):
        begin, before = starts[text], past_lengths[text]
        first, last = max(begin, offset), min(starts[text + 1], offset + count)
        if first >= last:
            continue
        own, rows = first - offset, (last - first) * group
        for head in range(key_heads):
            for i in range(before):
                _unpack(past, past_starts[text] + i, head, size, keys, values, i)
            for i in range(last - begin):
                _unpack(store, places[begin + i], head, size, keys, values, before + i)
            for tile in range(0, rows, WIDTH):
                for r in range(WIDTH):  # those beyond the last repeat it
                    i, member = divmod(min(tile + r, rows - 1), group)
                    limits[r] = before + first - begin + i
                    at = (head * group + member) * size
                    for d in range(size):
                        turned[d, r] = queries[own + i, at + d] * sharpness
                reach = limits[WIDTH - 1] + 1
                for key in range(0, reach, ROWS):
                    multiply(keys, key, turned, scores, key, size, False)  # type: ignore[call-arg]
                _weigh(scores, limits, tops, totals, fractions, bits, bits.view(np.float32))
                for d in range(0, size, ROWS):
                    multiply(values, d, scores, outputs, d, reach, True)  # type: ignore[call-arg]
                for r in range(min(WIDTH, rows - tile)):
                    i, member = divmod(tile + r, group)
                    at = (head * group + member) * size
                    for d in range(size):
                        result[i, at + d] = outputs[d, r] / totals[r]
        for i in range(last - first):
            scales[own + i] = quantise(result[i], width, codes[own + i])


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def _normalise(values: Any, weights: Any, epsilon: Any) -> None:
    """RMS norm in place."""
    squares = np.float32(0)
    for d in range(len(values)):
        squares += values[d] * values[d]
    inverse = np.float32(1) / np.sqrt(squares / np.float32(len(values)) + epsilon)
    for d in range(len(values)):
        values[d] *= inverse * weights[d]


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def _unpack(store: Any, row: Any, head: Any, size: Any, keys: Any, values: Any, place: Any) -> None:
    """A token's key and value of one head."""
    at_key, at_value = head * size, store.shape[1] // 2 + head * size
    for d in range(size):
        keys[place, d] = from_half(store[row, at_key + d])  # type: ignore[call-arg]
    for d in range(size):
        values[place, d] = from_half(store[row, at_value + d])  # type: ignore[call-arg]


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def _weigh(scores: Any, limits: Any, tops: Any, totals: Any, fractions: Any, bits: Any, powers: Any) -> None:
    """Softmax down each column's rows up to its limit, in place, but for the division by ``totals``."""
    reach = limits[WIDTH - 1] + 1
    for key in range(limits[0] + 1, reach):
        for r in range(WIDTH):
            if key > limits[r]:
                scores[key, r] = np.float32(-1e30)
    _highest(scores, reach, tops)
    totals[:] = np.float32(0)
    for key in range(reach):
        for r in range(WIDTH):
            value = max(scores[key, r] - tops[r], np.float32(-127))
            whole = np.floor(value)
            fractions[r] = value - whole
            bits[r] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        for r in range(WIDTH):
            value = power(fractions[r]) * powers[r]
            scores[key, r] = value
            totals[r] += value


@njit(nogil=True, fastmath=FAST | {"nnan"}, error_model="numpy")
def _highest(scores: Any, count: Any, tops: Any) -> None:
    """Each column's maximum over the first ``count`` rows."""
    tops[:] = scores[0]
    for i in range(1, count):
        for r in range(WIDTH):
            tops[r] = max(tops[r], scores[i, r])
