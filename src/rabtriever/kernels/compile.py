"""Compilation by numba, with a cache on disk that a change anywhere in compiled code makes invalid.

numba's own ``cache=True`` compares only the file of the function itself: after a change in a function that it calls, it
would go on running the old machine code. Here the folder of the cache is named by all files with compiled code.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from rabtriever.caching import cache_dir, remove_stale
from rabtriever.progress import notice

PACKAGE = Path(__file__).parents[1]
FOLDERS = tuple(PACKAGE / folder for folder in ("kernels", "llm/int8", "encoders/int8"))  # all files with compiled code
MAX_UNUSED_DAYS = 30


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Returns a decorator that compiles a function at its first call, or loads its machine code from the cache.

    Without a writable cache folder each process compiles anew. ``options`` are numba's, but for ``cache``.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        # Not inlined, a caller loaded from the cache would run its own copy of a function, and one that was just
        # compiled the function's: each optimised in its own way, whose sums differ in the last bits.
        dispatcher = numba.njit(forceinline=True, **options)(function)
        if compiled_folder() is not None:
            dispatcher._cache = _Cache(function)
        return dispatcher

    return decorate


def code_digest() -> str:
    """Returns a name for all compiled code and its compiler; numba adds the CPU's name and features to its keys."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(path for folder in FOLDERS for path in folder.glob("*.py")):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def compiled_folder() -> Path | None:
    """Returns the cache folder of the present code; None if it is not writable. Folders long unused are removed."""
    folder = cache_dir() / "compiled" / code_digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        os.utime(folder)
        remove_stale(folder.parent.iterdir(), MAX_UNUSED_DAYS * 86_400)
    except OSError:
        return None
    return folder


@cache
def _announce() -> None:
    notice("compiling for this CPU, once, which takes up to half a minute")


class _Locator(_CacheLocator):
    """The answers that numba's cache asks for."""

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        self._py_file, self._line = path, function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func, py_file)

    def get_cache_path(self) -> str:
        return str(compiled_folder())

    def get_source_stamp(self) -> str:
        return ""  # the folder's name says it

    def get_disambiguator(self) -> str:
        return str(self._line)


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator]


class _Cache(FunctionCache):
    _impl_class = _CacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            found = super().load_overload(sig, target_context)
        except Exception:  # a damaged file
            with suppress(OSError):
                self.flush()
            found = None
        if found is None:
            _announce()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:  # a full disk
            self.disable()
