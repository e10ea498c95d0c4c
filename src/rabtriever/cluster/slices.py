"""Many files of sorted rows, of which a task reads the same slice of each: no task holds all rows.

A file begins with a table of where each slice begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rabtriever.persistence.files import Folder

READERS = 16  # files that are read at a time
BEGIN = np.dtype("<u4")


def pack_slices(rows: np.ndarray, slices: np.ndarray, n_slices: int) -> bytes:
    """Returns a file's bytes of rows (n,) whose slices, int (n,), ascend."""
    return np.searchsorted(slices, np.arange(n_slices + 1)).astype(BEGIN).tobytes() + rows.tobytes()


def read_slices(
    folder: Folder, names: Sequence[str], dtype: np.dtype, n_slices: int, first: int, last: int
) -> np.ndarray:
    """Returns the rows of the slices ``first`` to ``last`` - 1 of files, (n,) of the type that was packed."""
    header = (n_slices + 1) * BEGIN.itemsize

    def read(name: str) -> bytes:
        with folder.opened(name) as file:
            begins = np.frombuffer(file.read_at(header, 0), BEGIN)
            begin, end = int(begins[first]), int(begins[last])
            data: bytes = file.read_at((end - begin) * dtype.itemsize, header + begin * dtype.itemsize)
            return data

    with ThreadPoolExecutor(READERS) as readers:
        return np.frombuffer(b"".join(readers.map(read, names)), dtype)


def count_rows(folder: Folder, names: Sequence[str], n_slices: int) -> int:
    """Returns the number of rows of files."""

    def count(name: str) -> int:
        with folder.opened(name) as file:
            return int(np.frombuffer(file.read_at(BEGIN.itemsize, n_slices * BEGIN.itemsize), BEGIN)[0])

    with ThreadPoolExecutor(READERS) as readers:
        return sum(readers.map(count, names))
