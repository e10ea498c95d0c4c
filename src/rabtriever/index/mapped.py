"""What the system is told about arrays that are mapped from files, where it can be told."""

from __future__ import annotations

import mmap

import numpy as np


def expect_single_rows(array: np.ndarray) -> None:
    """Do not read what lies around a row that is read."""
    _advise(array, "MADV_RANDOM")


def release(array: np.ndarray) -> None:
    """Give back the memory of what was read; the system's file cache still has it."""
    _advise(array, "MADV_DONTNEED")


def _advise(array: np.ndarray, advice: str) -> None:
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, advice):
        mapped.madvise(getattr(mmap, advice))
