"""Old names of attributes and methods: they work until the next release, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any


class renamed:  # lower case, as `property` is
    """A class member under its old name: that of the name ``new``, or what ``value`` returns for an object."""

    def __init__(self, new: str, value: Callable[[Any], Any] | None = None) -> None:
        self.new, self.value = new, value

    def __set_name__(self, owner: type, name: str) -> None:
        self.names = f"{owner.__name__}.{name}", f"{owner.__name__}.{self.new}"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:  # noqa: ANN401
        if instance is None:
            return self
        warn_renamed(*self.names)
        return self.value(instance) if self.value else getattr(instance, self.new)

    def __set__(self, instance: Any, value: Any) -> None:  # noqa: ANN401
        warn_renamed(*self.names)
        setattr(instance, self.new, value)


def warn_renamed(old: str, new: str) -> None:
    """Warns the caller's caller that a name has changed."""
    warnings.warn(f"{old} is now {new}; the old name goes with the next release", DeprecationWarning, stacklevel=3)
