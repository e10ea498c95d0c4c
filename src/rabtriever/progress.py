"""One line on stderr that tells how far long work has come."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class Progress:
    """Counts work done, once a second, on one line of stderr; silent without a label.

    Args:
        label: What is being done; None shows nothing.
        total: How many steps there are, if that is known.
    """

    def __init__(self, label: str | None, total: int | None = None) -> None:
        self.label, self.total, self.done = label, total, 0
        self.started = self.shown = time.monotonic()
        self.shown_at = -1
        self.interactive = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        """Start counting."""
        return self

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` more."""
        self.done += steps
        now = time.monotonic()
        # A log file gets a line a minute, a terminal one that is redrawn.
        if self.label and now - self.shown >= (1 if self.interactive else 60):
            self.shown = now
            self._show(now, end="\r" if self.interactive else "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the line."""
        now = time.monotonic()
        if self.label and kind is None and now - self.started >= 1 and (self.interactive or self.shown_at < self.done):
            self._show(now, end="\n")

    def _show(self, now: float, end: str) -> None:
        self.shown_at = self.done
        text = f"{self.label}: {self.done}"
        if self.total is not None:
            left = (now - self.started) * (self.total - self.done) / max(self.done, 1)
            text += f"/{self.total}, {left:.0f} s left   "
        print(text, end=end, file=sys.stderr, flush=True)
