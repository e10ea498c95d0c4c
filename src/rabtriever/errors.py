"""The one exception that means: the input is wrong, and this is what to do about it."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, told in one line that names the input, the fault and the remedy.

    The command line prints the line and exits with 2.
    """
