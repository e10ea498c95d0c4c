"""LLVM vectors for what numba's loops cannot express: registers, and dot products of bytes.

Left to itself LLVM would leave sums in memory, or add across a register's lanes.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils

from rabtriever.kernels import LANES

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
I8X64, I16X32, I32X16 = ir.VectorType(I8, 64), ir.VectorType(I16, 32), ir.VectorType(I32, LANES)
F16X16, F32X16 = ir.VectorType(ir.HalfType(), LANES), ir.VectorType(F32, LANES)
VNNI = bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni"))


def declare(b: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Returns one of LLVM's intrinsics."""
    return cgutils.get_or_insert_function(b.module, ir.FunctionType(result, arguments), name)


def multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    """Returns x * y + z of floats."""
    return b.call(declare(b, f"llvm.fmuladd.v{LANES}f32", F32X16, F32X16, F32X16, F32X16), [x, y, z])


def broadcast(b: Any, value: Any, kind: Any) -> Any:
    """Returns a scalar in every lane."""
    blank, zeros = ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, kind.count), None)
    return b.shuffle_vector(b.insert_element(blank, value, I32(0)), blank, zeros)


def broadcast_quad(b: Any, array: Any, offset: Any) -> Any:
    """Returns four neighbouring bytes in every 32-bit lane."""
    word = b.load(b.bitcast(b.gep(array, [offset]), I32.as_pointer()), align=1)
    return b.bitcast(broadcast(b, word, I32X16), I8X64)


def load(b: Any, pointer: Any, kind: Any, align: int) -> Any:
    """Returns a register from memory."""
    return b.load(b.bitcast(pointer, kind.as_pointer()), align=align)


def dot(b: Any, total: Any, values: Any, weights: Any) -> Any:
    """Returns total + the products of four unsigned and four signed bytes in each 32-bit lane."""
    if VNNI:
        instruction = declare(b, "llvm.x86.avx512.vpdpbusd.512", I32X16, I32X16, I8X64, I8X64)
        return b.call(instruction, [total, values, weights])
    eight, wide = ir.Constant(I16X32, [8] * 32), ir.VectorType(I32, 32)
    values, weights = b.bitcast(values, I16X32), b.bitcast(weights, I16X32)
    even = b.and_(values, ir.Constant(I16X32, [255] * 32)), b.ashr(b.shl(weights, eight), eight)
    odd = b.lshr(values, eight), b.ashr(weights, eight)
    for x, y in (even, odd):
        product, blank = b.mul(b.sext(x, wide), b.sext(y, wide)), ir.Constant(wide, ir.Undefined)
        halves = [b.shuffle_vector(product, blank, ir.Constant(I32X16, list(range(i, 32, 2)))) for i in (0, 1)]
        total = b.add(total, b.add(*halves))
    return total
