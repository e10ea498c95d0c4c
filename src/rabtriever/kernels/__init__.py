"""Compiled loops: LLVM building blocks and the scan."""
