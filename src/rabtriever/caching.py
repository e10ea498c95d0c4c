"""A cache in memory, and the folder of caches on disk."""

from __future__ import annotations

import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def cache_dir() -> Path:
    """Returns ``$RABTRIEVER_CACHE``, or ``~/.cache/rabtriever`` if that is not set or empty."""
    return Path(os.environ.get("RABTRIEVER_CACHE") or "~/.cache/rabtriever").expanduser().absolute()


def remove_stale(folders: Iterable[Path], seconds: float) -> None:
    """Removes folders that were last changed so long ago; another process may remove or rename them meanwhile."""
    for folder in folders:
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > seconds:
                shutil.rmtree(folder, ignore_errors=True)


class LRUCache(Generic[Key, Value]):
    """A thread-safe mapping that drops the least recently used values above ``max_weight`` in all; 0 caches nothing."""

    def __init__(self, max_weight: int) -> None:
        self.max_weight = max_weight
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._total, self._lock = 0, Lock()

    def __len__(self) -> int:
        """Returns the number of cached values."""
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """Returns the value, which becomes the most recently used; None if it is not cached."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Key, value: Value, weight: int = 1) -> None:
        """Caches a value, unless it alone is heavier than ``max_weight``."""
        if weight > self.max_weight:
            return
        with self._lock:
            if key in self._values:
                self._total -= self._values.pop(key)[1]
            self._values[key] = value, weight
            self._total += weight
            while self._total > self.max_weight:
                self._total -= self._values.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Drops all values."""
        with self._lock:
            self._values.clear()
            self._total = 0
