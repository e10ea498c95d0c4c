"""What was computed last, kept for when it is asked for again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A mapping that forgets what was used longest ago. Threads may share it.

    Args:
        capacity: What all its values together may weigh.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._total, self._lock = 0, Lock()

    def __len__(self) -> int:
        """How many values are kept."""
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """The value, which now counts as used; None if it is not there."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Key, value: Value, weight: int = 1) -> None:
        """Keep a value, unless it alone is too heavy."""
        if weight > self.capacity:
            return
        with self._lock:
            if key in self._values:
                self._total -= self._values.pop(key)[1]
            self._values[key] = value, weight
            self._total += weight
            while self._total > self.capacity:
                self._total -= self._values.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self._total = 0
