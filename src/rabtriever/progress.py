"""Progress on stderr, where a person reads it: bars of what takes longer than two seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

Item = TypeVar("Item")

SECONDS = 2.0  # shorter work shows nothing
_hidden = False


def hide(hidden: bool = True) -> None:
    """Shows nothing from now on: a program reads what is printed, or a server prints only its log."""
    global _hidden
    _hidden = hidden


def is_shown() -> bool:
    """Returns whether a person sees stderr."""
    return not _hidden and sys.stderr is not None and sys.stderr.isatty()


def bar(total: int | None, label: str, initial: int = 0) -> Any:  # noqa: ANN401
    """Returns a tqdm bar that appears after two seconds; it is removed when it is closed."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=label, initial=initial, delay=SECONDS, leave=False, disable=not is_shown())


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yields items behind a :func:`bar` that counts them."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with bar(total, label) as shown:
        for item in items:
            yield item
            shown.update()


def notice(text: str) -> None:
    """Prints a line about work that takes long and cannot be counted."""
    if is_shown():
        print(text, file=sys.stderr, flush=True)
