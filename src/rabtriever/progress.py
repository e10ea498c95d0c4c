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


def bar(total: int | None, label: str | None, initial: int = 0, shown: bool | None = None) -> Any:  # noqa: ANN401
    """Returns a tqdm bar that appears after two seconds; it is removed when it is closed.

    Args:
        total: Steps; None if their number is not known.
        label: What is done.
        initial: Steps that were done before.
        shown: Whether a caller of the library asked for it; by default where :func:`is_shown`.
    """
    from tqdm.auto import tqdm

    hidden = not (is_shown() if shown is None else shown)
    return tqdm(total=total, desc=label, initial=initial, delay=SECONDS, leave=False, disable=hidden)


def track(items: Iterable[Item], label: str, total: int | None = None, shown: bool | None = None) -> Iterator[Item]:
    """Yields items behind a :func:`bar` that counts them."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with bar(total, label, shown=shown) as counter:
        for item in items:
            yield item
            counter.update()


def notice(text: str) -> None:
    """Prints a line about work that takes long and cannot be counted."""
    if is_shown():
        print(text, file=sys.stderr, flush=True)
