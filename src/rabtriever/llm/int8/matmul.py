"""Pieces of arithmetic written as LLVM vectors: tiles of matrix products, float16, and atomic counters."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rabtriever.kernels import LANES
from rabtriever.kernels.llvm import (
    F32,
    F32X16,
    I8X64,
    I32X16,
    I64,
    broadcast,
    broadcast_quad,
    dot,
    load,
    multiply_add,
)
from rabtriever.llm.int8 import PANEL_COLUMNS

TILE_ROWS = 8  # of a tile
TILE_COLUMNS = 2 * LANES  # columns of a tile of floats


@intrinsic(prefer_literal=True)
def multiply(
    typingctx: Any,
    left: Any,
    first: Any,
    right: Any,
    out: Any,
    out_first: Any,
    depth: Any,
    transposed: Any,
) -> Any:
    """Computes ``out[out_first : out_first + TILE_ROWS] = left[first : first + TILE_ROWS] @ right[:depth]``.

    All are float32, ``right`` and ``out`` of ``TILE_COLUMNS`` columns. With ``transposed``, left.T is meant.
    """

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        a, c, d = (context.make_array(signature.args[i])(context, b, args[i]) for i in (0, 2, 3))
        stride, flipped = cgutils.unpack_tuple(b, a.shape)[1], transposed.literal_value
        rows = [b.add(args[1], I64(r)) for r in range(TILE_ROWS)]
        lines = [b.gep(a.data, [row if flipped else b.mul(row, stride)]) for row in rows]
        sums = [[cgutils.alloca_once_value(b, ir.Constant(F32X16, None)) for _ in range(2)] for _ in lines]
        with cgutils.for_range(b, args[5]) as loop:
            start = b.mul(loop.index, I64(TILE_COLUMNS))
            values = [load(b, b.gep(c.data, [b.add(start, I64(LANES * i))]), F32X16, 4) for i in range(2)]
            step = b.mul(loop.index, stride) if flipped else loop.index
            for line, of_line in zip(lines, sums, strict=True):
                factor = broadcast(b, b.load(b.gep(line, [step])), F32X16)
                for value, total in zip(values, of_line, strict=True):
                    b.store(multiply_add(b, factor, value, b.load(total)), total)
        for r, of_line in enumerate(sums):
            for i, total in enumerate(of_line):
                at = b.gep(d.data, [b.add(b.mul(b.add(args[4], I64(r)), I64(TILE_COLUMNS)), I64(LANES * i))])
                b.store(b.load(total), b.bitcast(at, F32X16.as_pointer()), align=4)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(left, whole, right, out, whole, whole, transposed), generate


@intrinsic
def multiply_bytes(
    typingctx: Any, codes: Any, first: Any, weights: Any, panel: Any, offsets: Any, scales: Any, out: Any
) -> Any:
    """Computes ``out[rows, panel] = scales * (codes[rows] @ weights[panel] + offsets)``, rows from ``first`` on.

    There are ``TILE_ROWS`` of them. ``codes`` uint8 (n, 4 * depth), ``weights`` int8 (panels, depth, PANEL_COLUMNS, 4),
    ``offsets`` int32 and ``scales`` float32 (panels * PANEL_COLUMNS,), ``out`` float32 (n, panels * PANEL_COLUMNS).
    """

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        a, w, o, s, d = (context.make_array(signature.args[i])(context, b, args[i]) for i in (0, 2, 4, 5, 6))
        wide, out_wide = cgutils.unpack_tuple(b, a.shape)[1], cgutils.unpack_tuple(b, d.shape)[1]
        depth = cgutils.unpack_tuple(b, w.shape)[1]
        lines = [b.gep(a.data, [b.mul(b.add(args[1], I64(r)), wide)]) for r in range(TILE_ROWS)]
        column = b.mul(args[3], I64(PANEL_COLUMNS))
        block = b.gep(w.data, [b.mul(b.mul(args[3], depth), I64(4 * PANEL_COLUMNS))])
        begin = [load(b, b.gep(o.data, [b.add(column, I64(LANES * i))]), I32X16, 4) for i in range(3)]
        sums = [[cgutils.alloca_once_value(b, value) for value in begin] for _ in lines]
        for of_line in sums:
            for total, value in zip(of_line, begin, strict=True):
                b.store(value, total)
        with cgutils.for_range(b, depth) as loop:
            at = b.mul(loop.index, I64(4 * PANEL_COLUMNS))
            values = [load(b, b.gep(block, [b.add(at, I64(4 * LANES * i))]), I8X64, 1) for i in range(3)]
            step = b.shl(loop.index, I64(2))
            for line, of_line in zip(lines, sums, strict=True):
                code = broadcast_quad(b, line, step)
                for value, total in zip(values, of_line, strict=True):
                    b.store(dot(b, b.load(total), code, value), total)
        factors = [load(b, b.gep(s.data, [b.add(column, I64(LANES * i))]), F32X16, 4) for i in range(3)]
        for r, of_line in enumerate(sums):
            for i, total in enumerate(of_line):
                value = b.fmul(b.sitofp(b.load(total), F32X16), factors[i])
                index = b.add(b.mul(b.add(args[1], I64(r)), out_wide), b.add(column, I64(LANES * i)))
                b.store(value, b.bitcast(b.gep(d.data, [index]), F32X16.as_pointer()), align=4)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(codes, whole, weights, whole, offsets, scales, out), generate


@intrinsic
def butterfly(typingctx: Any, values: Any, first: Any, second: Any) -> Any:
    """Replaces two registers by their sum and difference."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        slots = [b.bitcast(b.gep(data, [at]), F32X16.as_pointer()) for at in args[1:]]
        x, y = (b.load(slot, align=4) for slot in slots)
        b.store(b.fadd(x, y), slots[0], align=4)
        b.store(b.fsub(x, y), slots[1], align=4)
        return context.get_dummy_value()

    return types.void(values, types.int64, types.int64), generate


@intrinsic
def to_half(typingctx: Any, value: Any) -> Any:
    """Converts float32 to float16's bits."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.bitcast(b.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def from_half(typingctx: Any, value: Any) -> Any:
    """Converts float16's bits to float32."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.fpext(b.bitcast(args[0], ir.HalfType()), F32)

    return types.float32(types.uint16), generate


@intrinsic
def atomic_increment(typingctx: Any, barrier: Any) -> Any:
    """Adds one to ``barrier[0]`` (int64); a thread that loads the sum sees what this one wrote before."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        b.atomic_rmw("add", data, I64(1), "seq_cst")
        return context.get_dummy_value()

    return types.void(barrier), generate


@intrinsic
def atomic_load(typingctx: Any, barrier: Any, index: Any) -> Any:
    """Loads ``barrier[index]`` (int64) anew."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        return b.load_atomic(b.gep(data, [args[1]]), "seq_cst", 8)

    return types.int64(barrier, types.int64), generate
