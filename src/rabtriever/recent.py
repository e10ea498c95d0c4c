"""What was computed last, kept for when it is asked for again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A mapping that forgets what was used longest ago. Threads may share it.

    Args:
        capacity: What all its values together may weigh.
        weight: What a value weighs; 1 if None.
    """

    def __init__(self, capacity: int, weight: Callable[[Value], int] | None = None) -> None:
        self.capacity, self._weight = capacity, weight or (lambda value: 1)
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._total, self._lock = 0, Lock()

    def __len__(self) -> int:
        """How many values are kept."""
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """The value, which now counts as used; None if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, unless it alone is too heavy."""
        weight = self._weight(value)
        if weight > self.capacity:
            return
        with self._lock:
            if key in self._values:
                self._total -= self._weight(self._values.pop(key))
            self._values[key] = value
            self._total += weight
            while self._total > self.capacity:
                self._total -= self._weight(self._values.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self._total = 0
