"""A decoder's layers over packed rows in one call without a GIL; threads share the rows and meet in each layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from rabtriever.kernels.compile import njit
from rabtriever.llm.int8.attention import attend, turn
from rabtriever.llm.int8.elementwise import FAST, add_and_finish, add_and_normalise, gate
from rabtriever.llm.int8.matmul import ROWS, arrive, look, multiply_bytes

CHUNK = 64  # rows that go through the MLP together: what is between its products stays in the cache
SPINS = 2000  # looks before a waiting thread lets others run

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


@njit(nogil=True, fastmath=FAST, error_model="numpy")
def forward(
    hidden: Any,
    update: Any,
    first: Any,
    qkv: Any,
    out: Any,
    gate_up: Any,
    down: Any,
    bias: Any,
    norms: Any,
    shape: Any,
    epsilon: Any,
    rotary: Any,
    positions: Any,
    ends: Any,
    past: Any,
    past_starts: Any,
    past_lengths: Any,
    store: Any,
    places: Any,
    last: Any,
    threads: Any,
    meter: Any,
) -> Any:
    """One thread's rows through all layers and the final norm.

    Args:
        hidden: float32 (n padded to ROWS, H), zeros. Changed.
        update: float32 (n, H), the embedded tokens, turned.
        first: The first of the rows, among all threads'.
        qkv: Weights ((layers, panels, depth, PANEL, 4) int8, offsets int32, scales float32 (layers, panels * PANEL)).
        out: Weights.
        gate_up: Weights.
        down: Weights.
        bias: float32 (layers, columns of qkv).
        norms: float32 (layers, 2 or 0, head size).
        shape: (heads, key heads, head size, units of the MLP, block of :func:`rows.gate`).
        epsilon: Of the norms.
        rotary: float32 (2, positions, head size / 2).
        positions: int64 (n,).
        ends: int64 (texts + 1,), 0 and where each text ends, among all threads' rows.
        past: uint16 (layers, rows, 2 * key heads * head size).
        past_starts: int64 (texts,), where there each text's past begins.
        past_lengths: int64 (texts,), and its tokens.
        store: uint16 (layers or 2, rows, 2 * key heads * head size), for keys and values of all threads' rows.
        places: int64 (all threads' rows,), each one's row there.
        last: Whether each text's last state is enough.
        threads: How many share the rows.
        meter: int64 (2,), zeros: arrivals, and whether a thread failed.

    Returns:
        How many rows of ``hidden`` hold states.
    """
    heads, key_heads, size, units, block = shape
    count, columns = len(update), (heads + 2 * key_heads) * size
    padded = len(hidden)
    codes = np.full((padded, 4 * out[0].shape[2]), 128, np.uint8)
    narrow = np.full((padded, 4 * qkv[0].shape[2]), 128, np.uint8)
    mixed = np.full((CHUNK, 4 * down[0].shape[2]), 128, np.uint8)
    turned = np.empty((padded, qkv[2].shape[1]), np.float32)
    added = np.zeros((padded, down[2].shape[1]), np.float32)
    wide = np.empty((CHUNK, gate_up[2].shape[1]), np.float32)
    scales, added_scales = np.empty(padded, np.float32), np.ones(padded, np.float32)
    added[:count, : update.shape[1]] = update
    mine = places[first : first + count]
    for layer in range(len(bias)):
        kept = store[layer % len(store)]
        add_and_normalise(hidden, count, added, added_scales, epsilon, narrow, scales)
        product(narrow, count, qkv, layer, turned)
        turn(turned, columns, count, scales, bias[layer], norms[layer], epsilon, rotary, positions, kept, mine)
        if threads > 1 and not _meet(meter, (layer + 1) * threads):
            return 0
        attend(
            turned,
            first,
            count,
            ends,
            past[layer],
            past_starts,
            past_lengths,
            kept,
            places,
            heads,
            key_heads,
            size,
            codes,
            added_scales,
        )
        if last and layer == len(bias) - 1:
            count = _keep_last(first, count, ends, hidden, codes, added_scales)
        product(codes, count, out, layer, added)
        add_and_normalise(hidden, count, added, added_scales, epsilon, narrow, scales)
        for start in range(0, count, CHUNK):
            some = min(CHUNK, count - start)
            product(narrow[start:], some, gate_up, layer, wide)
            gate(wide, units, some, scales[start:], block, mixed, added_scales[start:])
            product(mixed, some, down, layer, added[start:])
    add_and_finish(hidden, count, added, added_scales, epsilon)
    return count


@njit(nogil=True, error_model="numpy")
def product(codes: Any, count: Any, weights: Any, layer: Any, out: Any) -> None:
    """``count`` rows of codes times a layer's weights; up to ROWS - 1 rows more are written, too."""
    panels = weights[0][layer]
    for panel in range(len(panels)):
        for row in range(0, count, ROWS):
            multiply_bytes(codes, row, panels, panel, weights[1][layer], weights[2][layer], out)  # type: ignore[call-arg]


@njit(nogil=True, error_model="numpy")
def _keep_last(first: Any, count: Any, ends: Any, hidden: Any, codes: Any, scales: Any) -> Any:
    """Move the rows of texts' last tokens to the front; how many there are."""
    kept = 0
    for end in ends[1:]:
        row = end - 1 - first
        if 0 <= row < count:
            hidden[kept], codes[kept], scales[kept] = hidden[row], codes[row], scales[row]
            kept += 1
    return kept


@njit(nogil=True, error_model="numpy")
def _meet(meter: Any, target: Any) -> Any:
    """Wait until ``target`` arrivals were counted; False if a thread failed."""
    arrive(meter)  # type: ignore[call-arg]
    looks = 0
    while look(meter, 0) < target:  # type: ignore[call-arg]
        if look(meter, 1):  # type: ignore[call-arg]
            return False
        looks += 1
        if looks > SPINS:
            _sched_yield()
    return True
