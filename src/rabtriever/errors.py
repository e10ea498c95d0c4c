"""The one exception that means: the input is wrong, and this is what to do about it."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, told in one line that names the input, the fault and the remedy.

    The command line prints the line and exits with 2.
    """


class BusyError(InputError):
    """Not now: another is at work, and the same may succeed when it is done."""


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line of bearable length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
