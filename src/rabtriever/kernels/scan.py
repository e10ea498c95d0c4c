"""The scan's kernel: folded scores of 64 documents at a time, and the k best, in one pass over the codes.

Codes lie in blocks of 64 documents, column by column (int8: four columns by four, as the processor's dot products of
bytes want them), so that a register holds one column of many documents: no sum within a register, and what was loaded
serves every query. Inner-product columns come first, then ReLU columns; a layout may have both, and queries may have
the former alone. With ``t = -a`` and
signs s, a ReLU costs one maximum and one multiply-add::

    sum_j s_j relu(a_j + b_j) = sum_j s_j max(b_j, t_j) - sum_j s_j t_j

The ReLU sum and the query's constants in it are multiplied by the document's gain, which the inner product is not.
With AVX-512 VNNI the bytes' dot product is one instruction.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rabtriever.kernels import BLOCK
from rabtriever.kernels.compile import njit
from rabtriever.kernels.llvm import (
    F16X16,
    F32,
    F32X16,
    I8X64,
    I16,
    I32X16,
    I64,
    broadcast,
    broadcast_quad,
    declare,
    dot,
    load,
    multiply_add,
)


@njit(nogil=True, boundscheck=False, error_model="numpy")
def scan_top_k(
    codes: Any, queries: Any, gain: Any, bias: Any, live: Any, blocks: Any, scores: Any, positions: Any
) -> None:
    """Finds the best documents of each query in some blocks; it holds no GIL, so threads may share the work.

    Args:
        codes: (n_blocks, columns, 64) float32 or uint16 (float16's bits), or (n_blocks, columns / 4, 64, 4) uint8.
        queries: The arrays of :class:`rabtriever.index.quantization.QuantizedQueries`.
        gain: float32 (n_blocks * 64,), by which each document's ReLU sum is multiplied.
        bias: float32 (n_blocks * 64,), added to each document's score.
        live: uint8 (n_blocks * 64,), 0 for documents that must not be found.
        blocks: int64, the blocks to read, ascending.
        scores: float32 (n_queries, k), a heap of the best so far, least first; begins with -inf. Changed.
        positions: int64 (n_queries, k), those documents; begins with -1. Changed.
    """
    found, top = np.empty((2, BLOCK), np.float32), np.empty(2, np.float32)
    for block in blocks:
        for query in range(0, len(scores), 2):
            if query + 1 < len(scores):  # a pair shares what is loaded
                block_scores(codes, queries, gain, bias, block, query, 2, found, top)  # type: ignore[call-arg]
                _push_block(found[1], top[1], live, block, scores[query + 1], positions[query + 1])
            else:
                block_scores(codes, queries, gain, bias, block, query, 1, found, top)  # type: ignore[call-arg]
            _push_block(found[0], top[0], live, block, scores[query], positions[query])


@njit(nogil=True, boundscheck=False)
def _push_block(found: Any, top: Any, live: Any, block: Any, scores: Any, positions: Any) -> None:
    """Puts a block's documents into a heap, those that are better than its least; there is none unless ``top`` is."""
    if top > scores[0]:
        for i in range(BLOCK):
            if found[i] > scores[0] and live[block * BLOCK + i]:
                _heap_replace(scores, positions, found[i], block * BLOCK + i)


@njit(nogil=True, boundscheck=False)
def _heap_replace(scores: Any, positions: Any, score: Any, position: Any) -> None:
    """Replaces the heap's least document by a better one; of equal scores, the later position is the lesser."""
    node, size = 0, len(scores)
    while True:
        child = 2 * node + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            scores[right] < scores[child] or (scores[right] == scores[child] and positions[right] > positions[child])
        ):
            child = right
        if scores[child] > score or (scores[child] == score and positions[child] < position):
            break
        scores[node], positions[node] = scores[child], positions[child]
        node = child
    scores[node], positions[node] = score, position


@intrinsic(prefer_literal=True)
def block_scores(
    typingctx: Any,
    codes: Any,
    queries: Any,
    gain: Any,
    bias: Any,
    block: Any,
    query: Any,
    count: Any,
    found: Any,
    top: Any,
) -> Any:
    """Writes the scores of a block's documents for ``count`` queries from ``query`` on, and each query's highest."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        def array(kind: Any, value: Any) -> Any:
            return None if isinstance(kind, types.NoneType) else context.make_array(kind)(context, b, value)

        def n_columns(factors: Any) -> Any:
            return I64(0) if factors is None else cgutils.unpack_tuple(b, factors.shape)[-1]

        code, gains, offsets, scores, best = (array(signature.args[i], args[i]) for i in (0, 2, 3, 7, 8))
        gains, offsets, scores, best = gains.data, offsets.data, scores.data, best.data
        inner, thresholds, weights, units = map(array, queries.types, cgutils.unpack_tuple(b, args[1]))
        rows = [b.add(args[5], I64(i)) for i in range(count.literal_value)]
        n_inner, n_relu = n_columns(inner), n_columns(thresholds)
        size = reduce(b.mul, cgutils.unpack_tuple(b, code.shape)[1:])  # of a block: queries may leave its ReLUs out
        start = b.gep(code.data, [b.mul(args[4], size)])
        unit = [[b.load(b.gep(units.data, [b.add(b.mul(row, I64(3)), I64(i))])) for row in rows] for i in range(3)]
        # Four registers of 16 documents a query; what is to be multiplied by the gain begins with the query's constant.
        totals = [[ir.Constant(F32X16, None)] * 4 for _ in rows], [[broadcast(b, c, F32X16)] * 4 for c in unit[2]]
        is_bytes = codes.dtype == types.uint8
        for part, factors, width, first in ((0, inner, n_inner, I64(0)), (1, thresholds, n_relu, n_inner)):
            if factors is None:
                continue
            length = b.mul(width, I64(2)) if is_bytes and part == 0 else width  # two planes of bytes
            own = [b.gep(factors.data, [b.mul(row, length)]) for row in rows]
            columns, relu = b.gep(start, [b.mul(first, I64(BLOCK))]), weights.data if part else None
            if is_bytes:
                _bytes(b, columns, own, relu, width, unit[part], totals[part])
            else:
                _floats(b, columns, own, relu, width, totals[part])
        own_gain, own_bias = (b.gep(values, [b.mul(args[4], I64(BLOCK))]) for values in (gains, offsets))
        _finish(b, totals, own_gain, own_bias, scores, best)
        return context.get_dummy_value()

    return types.void(codes, queries, gain, bias, types.int64, types.int64, count, found, top), generate


def _floats(b: Any, codes: Any, factors: list[Any], relu: Any, width: Any, totals: Any) -> None:
    """Adds one part of the columns to four registers of 16 documents per query.

    A column is a multiply-add, or a maximum and a multiply-add. ``factors`` are the queries' weights of inner products
    or thresholds of ReLUs, ``relu`` the latter's weights, or None.
    """
    half = codes.type.pointee == I16
    sums = [[cgutils.alloca_once(b, F32X16) for _ in of_query] for of_query in totals]
    _store(b, sums, totals)
    with cgutils.for_range(b, width) as loop:
        own = [broadcast(b, b.load(b.gep(some, [loop.index])), F32X16) for some in factors]
        weight = broadcast(b, b.load(b.gep(relu, [loop.index])), F32X16) if relu else None
        for i in range(4):
            at = b.gep(codes, [b.add(b.mul(loop.index, I64(BLOCK)), I64(16 * i))])
            values = load(b, at, F16X16 if half else F32X16, 2 if half else 4)
            values = b.fpext(values, F32X16) if half else values
            for factor, of_query in zip(own, sums, strict=True):
                above = b.select(b.fcmp_ordered(">", values, factor), values, factor) if relu else values
                b.store(multiply_add(b, above, weight or factor, b.load(of_query[i])), of_query[i])
    for of_query, of_sums in zip(totals, sums, strict=True):
        of_query[:] = [b.load(total) for total in of_sums]


def _bytes(b: Any, codes: Any, factors: list[Any], relu: Any, width: Any, units: list[Any], totals: Any) -> None:
    """Does as :func:`_floats`; a step is four columns: a maximum and a dot product of bytes, or two of the latter."""
    planes = range(1 if relu else 2)
    maximum = declare(b, "llvm.umax.v64i8", I8X64, I8X64, I8X64)
    zeros = [ir.Constant(I32X16, None)] * 4
    sums = [[[cgutils.alloca_once(b, I32X16) for _ in zeros] for _ in planes] for _ in factors]
    for of_query in sums:
        _store(b, of_query, [zeros for _ in planes])
    with cgutils.for_range(b, b.lshr(width, I64(2))) as loop:
        offset = b.shl(loop.index, I64(2))
        own = [
            [broadcast_quad(b, some, b.add(offset, b.mul(width, I64(plane)))) for plane in planes] for some in factors
        ]
        weight = broadcast_quad(b, relu, offset) if relu else None
        for i in range(4):
            values = load(b, b.gep(codes, [b.add(b.mul(loop.index, I64(4 * BLOCK)), I64(64 * i))]), I8X64, 1)
            for of_factors, of_query in zip(own, sums, strict=True):
                for factor, of_plane in zip(of_factors, of_query, strict=True):
                    above = b.call(maximum, [values, factor]) if relu else values
                    b.store(dot(b, b.load(of_plane[i]), above, weight or factor), of_plane[i])
    for unit, of_query, of_sums in zip(units, totals, sums, strict=True):
        scale = broadcast(b, unit, F32X16)
        for i, before in enumerate(of_query):
            of_query[i] = multiply_add(b, _joined(b, [b.load(of_plane[i]) for of_plane in of_sums]), scale, before)


def _joined(b: Any, planes: list[Any]) -> Any:
    """Returns planes of integers as one of floats."""
    result = b.sitofp(planes[0], F32X16)
    for plane in planes[1:]:
        result = b.fadd(b.fmul(result, ir.Constant(F32X16, [128.0] * 16)), b.sitofp(plane, F32X16))
    return result


def _store(b: Any, slots: list[list[Any]], values: list[list[Any]]) -> None:
    for of_slots, of_values in zip(slots, values, strict=True):
        for slot, value in zip(of_slots, of_values, strict=True):
            b.store(value, slot)


def _finish(b: Any, totals: tuple[list[Any], list[Any]], gain: Any, bias: Any, found: Any, top: Any) -> None:
    """Writes the first totals + gain * the second + bias and their maximum, query by query."""
    largest = declare(b, "llvm.maxnum.v16f32", F32X16, F32X16, F32X16)
    largest_of_16 = declare(b, "llvm.vector.reduce.fmax.v16f32", F32, F32X16)
    gains, offsets = ([load(b, b.gep(array, [I64(16 * i)]), F32X16, 4) for i in range(4)] for array in (gain, bias))
    for query, (inner, gained) in enumerate(zip(*totals, strict=True)):
        plain = [b.fadd(total, offset) for total, offset in zip(inner, offsets, strict=True)]
        values = [multiply_add(b, *three) for three in zip(gained, gains, plain, strict=True)]
        for i, value in enumerate(values):
            at = b.gep(found, [I64(BLOCK * query + 16 * i)])
            b.store(value, b.bitcast(at, F32X16.as_pointer()), align=4)
        pairs = [b.call(largest, values[:2]), b.call(largest, values[2:])]
        b.store(b.call(largest_of_16, [b.call(largest, pairs)]), b.gep(top, [I64(query)]))
