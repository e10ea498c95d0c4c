"""placeholder"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class FeedbackEvent:
    """What came of a search."""

    query: str | None
    id: str | None
    shown: tuple[str, ...] = ()
    succeeded: bool = True
    time: float | None = None
    digest: str | None = None
    state: np.ndarray | None = None
