"""Whether the difference between two systems is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from rabtriever.evaluation.measures import MEASURES, interval
from rabtriever.evaluation.results import SystemResult
from rabtriever.progress import track

SIGNIFICANT = 0.05
PERMUTATIONS = 10_000
AT_A_TIME = 500  # permutations, which bounds the memory
DECIMALS = 12  # differences that are equal but for rounding are equal


def compare_systems(
    systems: Mapping[str, SystemResult], seed: int = 0, show_progress_bar: bool = False
) -> list[dict[str, Any]]:
    """Compares all pairs of systems on all measures.

    Returns:
        ``[{"a": name, "b": name, "measures": {measure: {"difference": mean of a - b, "interval": [low, high], "p",
        "p_holm": p corrected for the number of pairs}}}, ...]``, none of a single system.
    """
    pairs = list(combinations(systems, 2))
    rows: list[dict[str, Any]] = [{"a": a, "b": b, "measures": {}} for a, b in pairs]
    for row in track(rows, "comparing systems", shown=show_progress_bar):
        for measure in MEASURES:
            a, b = (np.array(systems[row[side]].values(measure)) for side in ("a", "b"))
            row["measures"][measure] = {
                "difference": float((a - b).mean()),
                "interval": list(interval((a - b).tolist(), seed)),
                "p": randomisation_test(a, b, seed),
            }
    for measure in MEASURES:
        corrected = holm([row["measures"][measure]["p"] for row in rows])
        for row, p in zip(rows, corrected, strict=True):
            row["measures"][measure]["p_holm"] = p
    return rows


def randomisation_test(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, seed: int = 0, permutations: int = PERMUTATIONS
) -> float:
    """Returns the two-sided p of the paired randomisation test on the difference of means.

    If the systems were the same, each query's difference could as well have the other sign. p is the share of random
    signs under which the mean's difference is as far from 0 as it is, the observed signs counted as one of them.

    Args:
        a: A measure of each query.
        b: The same of another system, in the same order.
        seed: Of the signs.
        permutations: How many.
    """
    differences = np.round(np.asarray(a, np.float64) - np.asarray(b, np.float64), DECIMALS)
    # Of queries with the same difference only the number of flipped signs matters; nor does the queries' order.
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    observed = abs(differences.sum()) - 1e-9  # of sums that are equal but for rounding
    rng, extreme = np.random.default_rng(seed), 0
    for start in range(0, permutations, AT_A_TIME):
        drawn = rng.binomial(counts, 0.5, size=(min(AT_A_TIME, permutations - start), len(counts)))
        extreme += int((np.abs((2 * drawn - counts) @ sizes) >= observed).sum())
    return (extreme + 1) / (permutations + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p values corrected for their number, in the same order (Holm's step-down method)."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable").tolist()):
        least = max(least, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = least
    return corrected
