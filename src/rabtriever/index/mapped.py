"""Advice to the operating system about arrays that are mapped from files, on systems that take it."""

from __future__ import annotations

import mmap

import numpy as np


def advise(array: np.ndarray, advice: str) -> None:
    """Gives advice, such as ``MADV_DONTNEED``, which frees memory; the system's file cache still has what was read."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, advice):
        mapped.madvise(getattr(mmap, advice))
