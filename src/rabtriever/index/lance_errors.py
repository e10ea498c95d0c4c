"""What Lance raises, as errors of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rabtriever.errors import CorruptIndexError, InputError, StorageError
from rabtriever.persistence.object_store import is_uri, require_reachable

LANCE_ERRORS = (RuntimeError, OSError, ValueError)
# In the messages of what another writer was first to do, or is about to.
CONFLICTS = ("conflict", "already exists", "concurrent", "was not found")


def is_conflict(error: Exception) -> bool:
    """Returns whether an error of Lance says that another writer was faster: the same may succeed now."""
    return any(word in str(error).lower() for word in CONFLICTS)


@contextmanager
def table_errors(uri: str) -> Iterator[None]:
    """Turns Lance's errors while reading into :class:`CorruptIndexError`, or StorageError if the store is away."""
    try:
        yield
    except InputError:
        raise
    except LANCE_ERRORS as error:
        if is_uri(uri):
            require_reachable(uri)
        message = f"{uri}: damaged ({_reason(error)}); restore it from a copy, or index again"
        raise CorruptIndexError(message) from error


@contextmanager
def write_errors(uri: str) -> Iterator[None]:
    """Turns Lance's errors while writing into :class:`StorageError`."""
    try:
        yield
    except InputError:
        raise
    except LANCE_ERRORS as error:
        if is_uri(uri):
            require_reachable(uri)
        message = f"{uri}: cannot be written, nothing was changed: {_reason(error)}"
        raise StorageError(message) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
