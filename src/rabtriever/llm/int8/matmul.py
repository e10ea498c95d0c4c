"""Pieces of arithmetic written as LLVM vectors: tiles of matrix products, halves, and where threads meet."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rabtriever.kernels.llvm import (
    I8X64,
    F32,
    F32X16,
    I64,
    I32X16,
    LANES,
    dot,
    load,
    multiply_add,
    broadcast,
    broadcast_quad,
)

ROWS = 8  # of a tile
WIDTH = 2 * LANES  # columns of a tile of floats
PANEL = 3 * LANES  # and of one of bytes: 8 x 3 registers of sums, of 32


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
    """out[out_first : out_first + ROWS] = left[first : first + ROWS] @ right[:depth]; float32, ``WIDTH`` columns.

    With ``transposed``, left.T is meant.
    """

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        a, c, d = (context.make_array(signature.args[i])(context, b, args[i]) for i in (0, 2, 3))
        stride, flipped = cgutils.unpack_tuple(b, a.shape)[1], transposed.literal_value
        places = [b.add(args[1], I64(r)) for r in range(ROWS)]
        lines = [b.gep(a.data, [place if flipped else b.mul(place, stride)]) for place in places]
        sums = [[cgutils.alloca_once_value(b, ir.Constant(F32X16, None)) for _ in range(2)] for _ in lines]
        with cgutils.for_range(b, args[5]) as loop:
            start = b.mul(loop.index, I64(WIDTH))
            values = [load(b, b.gep(c.data, [b.add(start, I64(LANES * i))]), F32X16, 4) for i in range(2)]
            step = b.mul(loop.index, stride) if flipped else loop.index
            for line, of_line in zip(lines, sums, strict=True):
                factor = broadcast(b, b.load(b.gep(line, [step])), F32X16)
                for value, total in zip(values, of_line, strict=True):
                    b.store(multiply_add(b, factor, value, b.load(total)), total)
        for r, of_line in enumerate(sums):
            for i, total in enumerate(of_line):
                at = b.gep(d.data, [b.add(b.mul(b.add(args[4], I64(r)), I64(WIDTH)), I64(LANES * i))])
                b.store(b.load(total), b.bitcast(at, F32X16.as_pointer()), align=4)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(left, whole, right, out, whole, whole, transposed), generate


@intrinsic
def multiply_bytes(
    typingctx: Any, codes: Any, first: Any, weights: Any, panel: Any, offsets: Any, scales: Any, out: Any
) -> Any:
    """out[first : first + ROWS, panel] = scales * (codes[first : first + ROWS] @ weights[panel] + offsets).

    ``codes`` uint8 (n, 4 * depth), ``weights`` int8 (panels, depth, PANEL, 4), ``offsets`` int32 and ``scales`` float32
    (panels * PANEL,), ``out`` float32 (n, panels * PANEL).
    """

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        a, w, o, s, d = (context.make_array(signature.args[i])(context, b, args[i]) for i in (0, 2, 4, 5, 6))
        wide, out_wide = cgutils.unpack_tuple(b, a.shape)[1], cgutils.unpack_tuple(b, d.shape)[1]
        depth = cgutils.unpack_tuple(b, w.shape)[1]
        lines = [b.gep(a.data, [b.mul(b.add(args[1], I64(r)), wide)]) for r in range(ROWS)]
        column = b.mul(args[3], I64(PANEL))
        block = b.gep(w.data, [b.mul(b.mul(args[3], depth), I64(4 * PANEL))])
        begin = [load(b, b.gep(o.data, [b.add(column, I64(LANES * i))]), I32X16, 4) for i in range(3)]
        sums = [[cgutils.alloca_once_value(b, value) for value in begin] for _ in lines]
        for of_line in sums:
            for total, value in zip(of_line, begin, strict=True):
                b.store(value, total)
        with cgutils.for_range(b, depth) as loop:
            at = b.mul(loop.index, I64(4 * PANEL))
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
                place = b.add(b.mul(b.add(args[1], I64(r)), out_wide), b.add(column, I64(LANES * i)))
                b.store(value, b.bitcast(b.gep(d.data, [place]), F32X16.as_pointer()), align=4)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(codes, whole, weights, whole, offsets, scales, out), generate


@intrinsic
def butterfly(typingctx: Any, values: Any, first: Any, second: Any) -> Any:
    """Sum and difference of two registers, in their places."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        places = [b.bitcast(b.gep(data, [at]), F32X16.as_pointer()) for at in args[1:]]
        x, y = (b.load(place, align=4) for place in places)
        b.store(b.fadd(x, y), places[0], align=4)
        b.store(b.fsub(x, y), places[1], align=4)
        return context.get_dummy_value()

    return types.void(values, types.int64, types.int64), generate


@intrinsic
def to_half(typingctx: Any, value: Any) -> Any:
    """float32 to float16's bits."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.bitcast(b.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def from_half(typingctx: Any, value: Any) -> Any:
    """float16's bits to float32."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.fpext(b.bitcast(args[0], ir.HalfType()), F32)

    return types.float32(types.uint16), generate


@intrinsic
def arrive(typingctx: Any, meter: Any) -> Any:
    """Add one to ``meter[0]`` (int64); what this thread wrote before is seen by who sees the sum."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        b.atomic_rmw("add", data, I64(1), "seq_cst")
        return context.get_dummy_value()

    return types.void(meter), generate


@intrinsic
def look(typingctx: Any, meter: Any, place: Any) -> Any:
    """``meter[place]`` (int64), read anew."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        return b.load_atomic(b.gep(data, [args[1]]), "seq_cst", 8)

    return types.int64(meter, types.int64), generate
