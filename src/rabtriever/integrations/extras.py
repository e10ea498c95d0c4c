"""What an adapter says when its library is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Surrounds an adapter's imports of its library.

    Raises:
        ImportError: one failed; the line says what to install.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}; pip install 'rabtriever[{extra}]'", name=error.name) from None
