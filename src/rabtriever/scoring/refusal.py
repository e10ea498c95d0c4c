"""When nothing fits: how low the best document's log-odds may be before a search returns nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rabtriever.errors import InputError

CONFIDENCE = 0.95
SHARES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True)
class Refusal:
    """Limits of the first hit's log-odds, each with the share of answerable requests that it refuses, at most.

    They are order statistics of held-out requests that people labelled. With the k-th lowest of n as the limit, the
    share of all such requests that lies below is at most the one-sided Clopper-Pearson bound of k - 1 in n, in 95% of
    such samples, whatever the distribution. It holds for requests and documents like those, and for a sample that
    nothing else was chosen by: a distillation's dev queries have also chosen its round and gain.

    Attributes:
        requests: n.
        limits: Share -> log-odds; only shares that n requests suffice for.
    """

    requests: int = 0
    limits: Mapping[float, float] = field(default_factory=dict, hash=False)

    @classmethod
    def fit(cls, log_odds: np.ndarray) -> Refusal:
        """Returns the limits by the first hits' log-odds, float (n,), of answerable requests."""
        ordered, limits = np.sort(np.asarray(log_odds, np.float64)), {}
        bounds = _upper_bounds(len(ordered))
        for share in SHARES:
            refused = int(np.searchsorted(bounds, share, side="right")) - 1  # the most under the share
            if 0 <= refused < len(ordered):
                limits[share] = float(ordered[refused])
        return cls(len(ordered), limits)

    def limit(self, share: float) -> float:
        """Returns the log-odds below which a first hit is refused.

        Args:
            share: Of the answerable requests, that may be refused at most.

        Raises:
            InputError: nothing can be promised, or not so small a share.
        """
        nearest = max((one for one in SHARES if one <= share), default=SHARES[0])
        if nearest <= share and nearest in self.limits:
            return self.limits[nearest]
        needed = math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - nearest))
        if not self.requests:
            fault = "the retriever knows no requests that people labelled, so it cannot promise anything"
            raise InputError(f"refuse {share}: {fault}; distil it with labels, or use threshold", param="refuse")
        if share < nearest:
            raise InputError(
                f"refuse {share}: at least {nearest} can be promised; choose that, or more", param="refuse"
            )
        fault = f"{self.requests} held-out labelled requests are too few, {needed} needed"
        raise InputError(f"refuse {share}: {fault}; choose a greater share, or distil with more", param="refuse")

    def to_config(self) -> dict[str, Any]:
        """Returns what :meth:`from_config` reads, for JSON."""
        return {"requests": self.requests, "limits": {str(share): limit for share, limit in self.limits.items()}}

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Refusal:
        """Returns what :meth:`to_config` described."""
        return cls(int(values["requests"]), {float(share): float(limit) for share, limit in values["limits"].items()})


def _upper_bounds(n: int) -> np.ndarray:
    """Returns the one-sided Clopper-Pearson bounds of 0, 1, ... n - 1 in n, float64 (n,), ascending."""
    from scipy.stats import beta

    k = np.arange(n)
    bounds: np.ndarray = beta.ppf(CONFIDENCE, k + 1, n - k)
    return bounds
