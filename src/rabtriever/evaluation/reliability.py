"""Whether a probability is one: the first hits' probabilities beside the share of them that is relevant."""

from __future__ import annotations

from typing import Any

import numpy as np

from rabtriever.evaluation.results import SystemResult

BINS = 10
Z = 1.96  # of a 95% interval


def reliability(system: SystemResult) -> dict[str, Any] | None:
    """Compares the probability of each query's first hit with whether that is relevant; None if there are none.

    Returns:
        ``{"ece": expected calibration error, "n": first hits, "mean_probability", "share_relevant", "bins": [{"low",
        "high", "n", "mean_probability", "share_relevant", "interval": Wilson's 95% of the share}]}``. The ten bins have
        equal width; empty ones are left out. The error is the mean over first hits of |mean probability - share
        relevant| of their bin.
    """
    if not system.has_probabilities:
        return None
    pairs = [
        (one.probability, one.relevant_rank == 1) for one in system.answers.values() if one.probability is not None
    ]
    probabilities, relevant = np.array(pairs, np.float64).T
    bin_of = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    bins = []
    for number in np.unique(bin_of).tolist():
        p, right = probabilities[bin_of == number], relevant[bin_of == number]
        bins.append(
            {
                "low": number / BINS,
                "high": (number + 1) / BINS,
                "n": len(p),
                "mean_probability": float(p.mean()),
                "share_relevant": float(right.mean()),
                "interval": list(wilson(int(right.sum()), len(right))),
            }
        )
    return {
        "ece": sum(one["n"] * abs(one["mean_probability"] - one["share_relevant"]) for one in bins) / len(pairs),
        "n": len(pairs),
        "mean_probability": float(probabilities.mean()),
        "share_relevant": float(relevant.mean()),
        "bins": bins,
    }


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Returns Wilson's 95% interval of a share."""
    share, scale = successes / n, 1 + Z**2 / n
    centre = (share + Z**2 / (2 * n)) / scale
    half = Z / scale * (share * (1 - share) / n + Z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
