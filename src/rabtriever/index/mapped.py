"""Advice to the operating system about arrays that are mapped from files, on systems that take it."""

from __future__ import annotations

import mmap

import numpy as np


def advise_random(array: np.ndarray) -> None:
    """Asks not to read ahead: rows are picked one by one."""
    _advise(array, "MADV_RANDOM")


def advise_dontneed(array: np.ndarray) -> None:
    """Gives back the memory of what was read; the system's file cache still has it."""
    _advise(array, "MADV_DONTNEED")


def _advise(array: np.ndarray, advice: str) -> None:
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, advice):
        mapped.madvise(getattr(mmap, advice))
