"""The scan's kernel: folded scores of 64 documents at a time, and the k best, in one pass over the codes.

QuantizedLatents lie in blocks of 64 documents, dimension by dimension (int8: four dimensions by four, as the processor's dot
products of bytes want them), so that a register holds one dimension of many documents: no sum within a register, and
what was loaded serves every query. With ``t = -a`` and signs s, a ReLU costs one maximum and one multiply-add::

    sum_j s_j relu(a_j + b_j) = sum_j s_j max(b_j, t_j) - sum_j s_j t_j

The block's arithmetic is written as LLVM vectors, which LLVM lowers to what the machine has. Left to itself it would
add across a register's lanes for every document and query. With AVX-512 VNNI the bytes' dot product is one instruction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from rabtriever.kernels.llvm import (
    BYTES,
    F32,
    FLOATS,
    HALVES,
    I16,
    I64,
    INTS,
    declare,
    dot,
    load,
    multiply_add,
    spread,
    spread_four,
)

BLOCK = 64  # documents of a block


@njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def scan_top_k(
    codes: Any,
    thresholds: Any,
    weights: Any,
    unit: Any,
    bias: Any,
    live: Any,
    blocks: Any,
    scores: Any,
    positions: Any,
) -> None:
    """The best documents of each query over some blocks; it holds no lock, so threads share the work.

    Args:
        codes: (n_blocks, dims, 64) float32 or uint16 (float16's bits), or (n_blocks, dims / 4, 64, 4) uint8.
        thresholds: t, (n_queries, dims), float32 or, for bytes, uint8; None for an inner product.
        weights: (n_queries, planes, dims) float32, or int8 for bytes; an inner product of bytes has two planes, 128
            times the first counts.
        unit: float32 (n_queries,); log-odds of one count.
        bias: float32 (n_blocks * 64,), added to each document's score.
        live: uint8 (n_blocks * 64,), 0 for those that are not there.
        blocks: int64, the blocks to read, ascending.
        scores: float32 (n_queries, k), a heap of the best so far, least first; begins with -inf. Changed.
        positions: int64 (n_queries, k), theirs; begins with -1. Changed.
    """
    found = np.empty((2, BLOCK), np.float32)
    top = np.empty(2, np.float32)
    for block in blocks:
        query = 0
        while query < len(scores):
            if query + 1 < len(scores):  # a pair shares what is loaded
                block_scores(codes, thresholds, weights, unit, bias, block, query, 2, found, top)  # type: ignore[call-arg]
                _push_block(found[1], top[1], live, block, scores[query + 1], positions[query + 1])
            else:
                block_scores(codes, thresholds, weights, unit, bias, block, query, 1, found, top)  # type: ignore[call-arg]
            _push_block(found[0], top[0], live, block, scores[query], positions[query])
            query += 2


@njit(nogil=True, cache=True, boundscheck=False)
def _push_block(found: Any, top: Any, live: Any, block: Any, scores: Any, positions: Any) -> None:
    """Put a block's documents into a heap, those that are better than its least; there is none unless ``top`` is."""
    if top > scores[0]:
        for i in range(BLOCK):
            if found[i] > scores[0] and live[block * BLOCK + i]:
                _heap_replace(scores, positions, found[i], block * BLOCK + i)


@njit(nogil=True, cache=True, boundscheck=False)
def _heap_replace(scores: Any, positions: Any, score: Any, position: Any) -> None:
    """Put a better document in the place of the heap's least; of equal scores, the later position is the lesser."""
    place, size = 0, len(scores)
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            scores[right] < scores[child] or (scores[right] == scores[child] and positions[right] > positions[child])
        ):
            child = right
        if scores[child] > score or (scores[child] == score and positions[child] < position):
            break
        scores[place], positions[place] = scores[child], positions[child]
        place = child
    scores[place], positions[place] = score, position


@intrinsic(prefer_literal=True)
def block_scores(
    typingctx: Any,
    codes: Any,
    thresholds: Any,
    weights: Any,
    unit: Any,
    bias: Any,
    block: Any,
    query: Any,
    count: Any,
    found: Any,
    top: Any,
) -> Any:
    """Write the scores of a block's documents for ``count`` queries from ``query`` on, and each query's highest."""
    if codes.dtype not in (types.uint8, types.uint16, types.float32):
        raise TypingError(f"codes of {codes.dtype}")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def array(place: int) -> Any:
            return context.make_array(signature.args[place])(context, builder, args[place])

        planes, dims = cgutils.unpack_tuple(builder, array(2).shape)[1:]
        relu = not isinstance(signature.args[1], types.NoneType)
        queries = [builder.add(args[6], I64(i)) for i in range(count.literal_value)]
        sums = (_bytes if codes.dtype == types.uint8 else _floats)(
            builder,
            builder.gep(array(0).data, [builder.mul(args[5], builder.mul(dims, I64(BLOCK)))]),
            [builder.gep(array(1).data, [builder.mul(i, dims)]) for i in queries] if relu else None,
            [builder.gep(array(2).data, [builder.mul(i, builder.mul(dims, planes))]) for i in queries],
            dims,
        )
        first = builder.mul(args[5], I64(BLOCK))
        units = [spread(builder, builder.load(builder.gep(array(3).data, [i])), FLOATS) for i in queries]
        _finish(builder, sums, units, builder.gep(array(4).data, [first]), array(8), array(9))
        return context.get_dummy_value()

    arguments = (codes, thresholds, weights, unit, bias, types.int64, types.int64, count, found, top)
    return types.void(*arguments), generate


def _floats(b: Any, codes: Any, thresholds: list[Any] | None, weights: list[Any], dims: Any) -> list[list[Any]]:
    """For each query four registers of 16 documents; a dimension is a maximum and a multiply-add, or that alone."""
    half = codes.type.pointee == I16
    sums = [[cgutils.alloca_once_value(b, ir.Constant(FLOATS, None)) for _ in range(4)] for _ in weights]
    with cgutils.for_range(b, dims) as loop:
        factors = [spread(b, b.load(b.gep(some, [loop.index])), FLOATS) for some in weights]
        floors = [spread(b, b.load(b.gep(some, [loop.index])), FLOATS) for some in thresholds or []]
        for i in range(4):
            at = b.gep(codes, [b.add(b.mul(loop.index, I64(BLOCK)), I64(16 * i))])
            values = load(b, at, HALVES if half else FLOATS, 2 if half else 4)
            values = b.fpext(values, FLOATS) if half else values
            for query, factor in enumerate(factors):
                above = values
                if thresholds:
                    above = b.select(b.fcmp_ordered(">", values, floors[query]), values, floors[query])
                b.store(multiply_add(b, above, factor, b.load(sums[query][i])), sums[query][i])
    return [[b.load(total) for total in of_query] for of_query in sums]


def _bytes(b: Any, codes: Any, thresholds: list[Any] | None, weights: list[Any], dims: Any) -> list[list[Any]]:
    """As :func:`_floats`; a step is four dimensions: a maximum and a dot product of bytes, or two of the latter."""
    planes = range(1 if thresholds else 2)
    maximum = declare(b, "llvm.umax.v64i8", BYTES, BYTES, BYTES)
    sums = [
        [[cgutils.alloca_once_value(b, ir.Constant(INTS, None)) for _ in range(4)] for _ in planes] for _ in weights
    ]
    with cgutils.for_range(b, b.lshr(dims, I64(2))) as loop:
        offset = b.shl(loop.index, I64(2))
        factors = [
            [spread_four(b, some, b.add(offset, b.mul(dims, I64(plane)))) for plane in planes] for some in weights
        ]
        floors = [spread_four(b, some, offset) for some in thresholds or []]
        for i in range(4):
            values = load(b, b.gep(codes, [b.add(b.mul(loop.index, I64(4 * BLOCK)), I64(64 * i))]), BYTES, 1)
            for query, of_query in enumerate(factors):
                above = b.call(maximum, [values, floors[query]]) if thresholds else values
                for plane, factor in enumerate(of_query):
                    total = sums[query][plane][i]
                    b.store(dot(b, b.load(total), above, factor), total)
    return [[_joined(b, [b.load(of_plane[i]) for of_plane in of_query]) for i in range(4)] for of_query in sums]


def _joined(b: Any, planes: list[Any]) -> Any:
    """Planes of whole numbers as one of floats."""
    result = b.sitofp(planes[0], FLOATS)
    for plane in planes[1:]:
        result = b.fadd(b.fmul(result, ir.Constant(FLOATS, [128.0] * 16)), b.sitofp(plane, FLOATS))
    return result


def _finish(b: Any, sums: list[list[Any]], units: list[Any], bias: Any, found: Any, top: Any) -> None:
    """Write units * sums + bias and their maximum, query by query."""
    largest = declare(b, "llvm.maxnum.v16f32", FLOATS, FLOATS, FLOATS)
    reduce = declare(b, "llvm.vector.reduce.fmax.v16f32", F32, FLOATS)
    offsets = [load(b, b.gep(bias, [I64(16 * i)]), FLOATS, 4) for i in range(4)]
    for query, of_query in enumerate(sums):
        values = [multiply_add(b, s, units[query], offset) for s, offset in zip(of_query, offsets, strict=True)]
        for i, value in enumerate(values):
            at = b.gep(found.data, [I64(BLOCK * query + 16 * i)])
            b.store(value, b.bitcast(at, FLOATS.as_pointer()), align=4)
        pairs = [b.call(largest, values[:2]), b.call(largest, values[2:])]
        b.store(b.call(reduce, [b.call(largest, pairs)]), b.gep(top.data, [I64(query)]))
