"""An encoder's layers over packed rows in one call without a GIL; threads share the rows and wait once a layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rabtriever.encoders.int8.elementwise import add_and_layer_norm, add_and_rms_norm, gelu, gelu_gate
from rabtriever.kernels.compile import njit
from rabtriever.llm.int8.attention import apply_rope_and_store_kv, attention
from rabtriever.llm.int8.elementwise import FASTMATH
from rabtriever.llm.int8.forward import EVERY_TOKEN, ROWS_PER_CHUNK, product, wait_at_barrier


class EncoderLayers(NamedTuple):
    """Weights of all layers, as in :class:`rabtriever.encoders.int8.weights.EncoderWeights`, and their shape.

    ``shape`` is (heads, key heads, head size, units of the MLP, block of the hidden size, block of the units, window,
    whether each sublayer is followed by layer norm, epsilon).
    """

    qkv: Any
    out: Any
    up: Any
    down: Any
    qkv_bias: Any
    out_bias: Any
    up_bias: Any
    down_bias: Any
    norms: Any
    head_norms: Any
    windowed: Any
    shape: Any


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy")
def forward(hidden: Any, count: Any, first: Any, layers: Any, batches: Any, threads: Any, barrier: Any) -> Any:
    """Computes all layers of one thread's rows, in place.

    Args:
        hidden: float32 (``count`` padded to TILE_ROWS, H), the embedded tokens. Changed: the residual stream behind
            the last layer; where layer norms are, that is what the encoder returns.
        count: Rows to take.
        first: The first of the rows, among all threads'.
        layers: The :class:`EncoderLayers`.
        batches: The :class:`rabtriever.llm.int8.forward.Batch` of all threads, with the rope of layers that attend to
            every token, and with that of windowed ones.
        threads: How many share the rows.
        barrier: int64 (2,), zeros: arrivals, and whether a thread failed.
    """
    qkv, out, up, down, qkv_bias, out_bias, up_bias, down_bias, norms, head_norms, windowed, shape = layers
    units, block, unit_block, window, layer_norms, epsilon = shape[3:]
    padded, size = hidden.shape
    attention_codes = np.full((padded, 4 * out[0].shape[2]), 128, np.uint8)
    codes = np.full((padded, 4 * qkv[0].shape[2]), 128, np.uint8)
    mlp_codes = np.full((ROWS_PER_CHUNK, 4 * down[0].shape[2]), 128, np.uint8)
    qkv_out = np.empty((padded, qkv[2].shape[1]), np.float32)
    update = np.zeros((padded, down[2].shape[1]), np.float32)
    up_out = np.empty((ROWS_PER_CHUNK, up[2].shape[1]), np.float32)
    factors, no_bias = np.ones(padded, np.float32), np.zeros(size, np.float32)
    if layer_norms:
        add_and_layer_norm(hidden, count, update, factors, no_bias, norms[0], epsilon, block, codes)
    else:
        add_and_rms_norm(hidden, count, update, factors, norms[0], epsilon, block, codes)
    for layer in range(len(qkv_bias)):
        batch, reach = batches[windowed[layer]], window if windowed[layer] else EVERY_TOKEN
        product(codes, count, qkv, layer, qkv_out)
        bias, own = qkv_bias[layer], head_norms[layer]
        apply_rope_and_store_kv(qkv_out, first, factors[:count], bias, own, epsilon, batch, layer)
        if threads > 1 and not wait_at_barrier(barrier, (layer + 1) * threads):
            return
        attention(qkv_out, first, count, batch, layer, (reach, reach), shape, attention_codes, factors)
        product(attention_codes, count, out, layer, update)
        if layer_norms:
            add_and_layer_norm(
                hidden, count, update, factors, out_bias[layer], norms[2 * layer + 1], epsilon, block, codes
            )
        else:
            add_and_rms_norm(hidden, count, update, factors, norms[2 * layer + 1], epsilon, block, codes)
        for start in range(0, count, ROWS_PER_CHUNK):
            n_rows = min(ROWS_PER_CHUNK, count - start)
            product(codes[start:], n_rows, up, layer, up_out)
            scales = factors[start:]
            if layer_norms:
                gelu(up_out, up_bias[layer], n_rows, scales, unit_block, mlp_codes, scales)
            else:
                gelu_gate(up_out, units, n_rows, scales, unit_block, mlp_codes, scales)
            product(mlp_codes, n_rows, down, layer, update[start:])
        if layer_norms:
            add_and_layer_norm(
                hidden, count, update, factors, down_bias[layer], norms[2 * layer + 2], epsilon, block, codes
            )
        else:
            add_and_rms_norm(hidden, count, update, factors, norms[2 * layer + 2], epsilon, block, codes)
