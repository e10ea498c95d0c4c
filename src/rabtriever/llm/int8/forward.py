"""A decoder's layers over packed rows in one call without a GIL; threads share the rows and wait once a layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from rabtriever.kernels.compile import njit
from rabtriever.llm.int8.attention import apply_rope_and_store_kv, attention
from rabtriever.llm.int8.elementwise import FASTMATH, add_and_finish, add_and_normalise, silu_gate
from rabtriever.llm.int8.matmul import TILE_ROWS, atomic_increment, atomic_load, multiply_bytes

ROWS_PER_CHUNK = 64  # rows that go through the MLP together: what is between its products stays in the cache
EVERY_TOKEN = 2**30
SPINS_BEFORE_YIELD = 2000  # loads of the counter before a waiting thread lets others run

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


class Layers(NamedTuple):
    """Weights of all layers, as in :class:`rabtriever.llm.int8.weights.Int8Weights`, and their shape.

    ``shape`` is (heads, key heads, head size, units of the MLP, block of :func:`elementwise.silu_gate`, epsilon).
    """

    qkv: Any
    out: Any
    gate_up: Any
    down: Any
    bias: Any
    norms: Any
    shape: Any


class Batch(NamedTuple):
    """Packed texts that are read in one call.

    Attributes:
        ends: int64 (texts + 1,), 0 and where each text ends.
        positions: int64 (n,), in each text, its cached tokens included.
        past: uint16 (layers, rows, 2 * key heads * head size), keys and values of what was read before, float16's bits.
        past_starts: int64 (texts,), the first row of each text in ``past``.
        past_lengths: int64 (texts,), the rows of each text in ``past``.
        store: uint16 (layers or 2, rows, 2 * key heads * head size), where keys and values of the n tokens go.
        cache_rows: int64 (n,), each token's row of ``store``.
        rope: float32 (2, positions, head size / 2), cosine and sine.
        position_bias: float32 (heads, 2 * positions - 1), what is added to the scores of keys by how far they are from
            the query, multiplied by log2(e); (0, 0) where there is none. Each head has its own keys then.
        last: Whether only each text's last state is wanted.
    """

    ends: Any
    positions: Any
    past: Any
    past_starts: Any
    past_lengths: Any
    store: Any
    cache_rows: Any
    rope: Any
    position_bias: Any
    last: Any


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def forward(hidden: Any, update: Any, first: Any, layers: Any, batch: Any, threads: Any, barrier: Any) -> Any:
    """Computes all layers and the final norm of one thread's rows; returns how many rows of ``hidden`` hold states.

    Args:
        hidden: float32 (n padded to TILE_ROWS, H), zeros. Changed.
        update: float32 (n, H), the embedded tokens, rotated.
        first: The first of the rows, among all threads'.
        layers: The LLM's :class:`Layers`.
        batch: The :class:`Batch` of all threads.
        threads: How many share the rows.
        barrier: int64 (2,), zeros: arrivals, and whether a thread failed.
    """
    qkv, out, gate_up, down, bias, norms, shape = layers
    units, block, epsilon = shape[3:]
    count, padded = len(update), len(hidden)
    attention_codes = np.full((padded, 4 * out[0].shape[2]), 128, np.uint8)
    norm_codes = np.full((padded, 4 * qkv[0].shape[2]), 128, np.uint8)
    mlp_codes = np.full((ROWS_PER_CHUNK, 4 * down[0].shape[2]), 128, np.uint8)
    qkv_out = np.empty((padded, qkv[2].shape[1]), np.float32)
    update_out = np.zeros((padded, down[2].shape[1]), np.float32)
    gate_up_out = np.empty((ROWS_PER_CHUNK, gate_up[2].shape[1]), np.float32)
    scales, update_scales = np.empty(padded, np.float32), np.ones(padded, np.float32)
    update_out[:count, : update.shape[1]] = update
    for layer in range(len(bias)):
        add_and_normalise(hidden, count, update_out, update_scales, epsilon, norm_codes, scales)
        product(norm_codes, count, qkv, layer, qkv_out)
        apply_rope_and_store_kv(qkv_out, first, scales[:count], bias[layer], norms[layer], epsilon, batch, layer)
        if threads > 1 and not wait_at_barrier(barrier, (layer + 1) * threads):
            return 0
        attention(qkv_out, first, count, batch, layer, (EVERY_TOKEN, 0), shape, attention_codes, update_scales)
        if batch.last and layer == len(bias) - 1:
            count = _move_last_rows(first, count, batch.ends, hidden, attention_codes, update_scales)
        product(attention_codes, count, out, layer, update_out)
        add_and_normalise(hidden, count, update_out, update_scales, epsilon, norm_codes, scales)
        for start in range(0, count, ROWS_PER_CHUNK):
            n_rows = min(ROWS_PER_CHUNK, count - start)
            product(norm_codes[start:], n_rows, gate_up, layer, gate_up_out)
            silu_gate(gate_up_out, units, n_rows, scales[start:], block, mlp_codes, update_scales[start:])
            product(mlp_codes, n_rows, down, layer, update_out[start:])
    add_and_finish(hidden, count, update_out, update_scales, epsilon)
    return count


@njit(nogil=True, error_model="numpy")
def product(codes: Any, count: Any, weights: Any, layer: Any, out: Any) -> None:
    """Multiplies ``count`` rows of codes by a layer's weights; up to TILE_ROWS - 1 rows more are written, too."""
    panels = weights[0][layer]
    for panel in range(len(panels)):
        for row in range(0, count, TILE_ROWS):
            multiply_bytes(codes, row, panels, panel, weights[1][layer], weights[2][layer], out)  # type: ignore[call-arg]


@njit(nogil=True, error_model="numpy")
def _move_last_rows(first: Any, count: Any, ends: Any, hidden: Any, codes: Any, scales: Any) -> Any:
    """Moves the rows of texts' last tokens to the front; returns their number."""
    n_rows = 0
    for end in ends[1:]:
        row = end - 1 - first
        if 0 <= row < count:
            hidden[n_rows], codes[n_rows], scales[n_rows] = hidden[row], codes[row], scales[row]
            n_rows += 1
    return n_rows


@njit(nogil=True, error_model="numpy")
def wait_at_barrier(barrier: Any, target: Any) -> Any:
    """Waits until ``target`` arrivals were counted; returns False if a thread failed."""
    atomic_increment(barrier)  # type: ignore[call-arg]
    n_loads = 0
    while atomic_load(barrier, 0) < target:  # type: ignore[call-arg]
        if atomic_load(barrier, 1):  # type: ignore[call-arg]
            return False
        n_loads += 1
        if n_loads > SPINS_BEFORE_YIELD:
            _sched_yield()
    return True
