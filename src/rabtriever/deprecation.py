"""Old names of attributes and methods: they work until the next release, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any


def renamed(new: str, value: Callable[[Any], Any] | None = None) -> Any:  # noqa: ANN401
    """Returns a class member that stands for another.

    Args:
        new: The member's name today.
        value: What the old name gives for an object, if it is not simply the new member.
    """
    return _Renamed(new, value)


class _Renamed:
    def __init__(self, new: str, value: Callable[[Any], Any] | None) -> None:
        self.new, self.value = new, value

    def __set_name__(self, owner: type, name: str) -> None:
        self.text = (
            f"{owner.__name__}.{name} is now {owner.__name__}.{self.new}; the old name goes with the next release"
        )

    def __get__(self, instance: Any, owner: type | None = None) -> Any:  # noqa: ANN401
        if instance is None:
            return self
        warnings.warn(self.text, DeprecationWarning, stacklevel=2)
        return self.value(instance) if self.value else getattr(instance, self.new)

    def __set__(self, instance: Any, value: Any) -> None:  # noqa: ANN401
        warnings.warn(self.text, DeprecationWarning, stacklevel=2)
        setattr(instance, self.new, value)
