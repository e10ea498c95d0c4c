"""Lance as this package uses it: how it is imported and connected, and its errors as this package's."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rabtriever.errors import CorruptIndexError, InputError, StorageError

if TYPE_CHECKING:
    import lancedb

LANCE_ERRORS = (RuntimeError, OSError, ValueError)


def connect(uri: str) -> lancedb.DBConnection:
    """Connects to the database in a folder or an object store."""
    collecting = gc.isenabled()
    gc.disable()  # a fifth of the import's second goes into collecting garbage among a thousand generated classes
    try:
        import lancedb
    finally:
        if collecting:
            gc.enable()
    # Every read looks for a newer version, so that a reader sees what a writer has finished.
    return lancedb.connect(uri, read_consistency_interval=timedelta(0))


@contextmanager
def table_errors(uri: str) -> Iterator[None]:
    """Turns Lance's errors while reading into one line.

    Raises:
        CorruptIndexError: a table that cannot be read.
    """
    try:
        yield
    except InputError:
        raise
    except LANCE_ERRORS as error:
        message = f"{uri}: damaged ({_one_line(error)}); restore it from a copy, or index again"
        raise CorruptIndexError(message) from error


@contextmanager
def write_errors(uri: str) -> Iterator[None]:
    """Turns Lance's errors while writing into :class:`StorageError`."""
    try:
        yield
    except InputError:
        raise
    except LANCE_ERRORS as error:
        raise StorageError(f"{uri}: cannot be written, nothing was changed: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
