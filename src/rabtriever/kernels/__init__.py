"""Compiled loops: LLVM building blocks, and the scan.

This file imports no numba: that costs a third of a second, and a machine need not have it.
"""

from __future__ import annotations

from functools import cache

from rabtriever.errors import first_line

BLOCK = 64  # documents of a block of the scan
LANES = 16  # 32-bit values of a vector register


@cache
def why_no_llvm() -> str | None:
    """Returns why numba cannot compile here, as one line; None if it can."""
    try:
        import numba
        from llvmlite import binding

        binding.get_host_cpu_features()
    except Exception as error:  # missing, made for another NumPy, or without its library
        return f"numba cannot be imported ({first_line(error)})"
    off = getattr(numba.config, "DISABLE_JIT", 0)
    return "numba is switched off by NUMBA_DISABLE_JIT" if off else None
