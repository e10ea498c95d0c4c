"""What is said when the library of an extra is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rabtriever.errors import MissingExtraError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Surrounds the imports of what an extra of this package brings.

    Raises:
        MissingExtraError: one failed; the line says what to install.
    """
    try:
        yield
    except ImportError as error:
        why = " ".join(str(error).split())
        raise MissingExtraError(f"{why}; run: pip install 'rabtriever[{extra}]'") from error
