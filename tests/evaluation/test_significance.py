"""The paired randomisation test and Holm's correction, on cases known by hand and by their properties."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rabtriever.evaluation.significance import PERMUTATIONS, holm, randomisation_test

VALUES = st.sampled_from([0.0, 1.0, 0.5, 1 / 3, 0.63093])
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40)


def exact(a: list[float], b: list[float]) -> float:
    """p over all sign patterns."""
    differences = np.array(a) - np.array(b)
    sums = [abs(differences @ np.array(signs)) for signs in product((-1, 1), repeat=len(differences))]
    return float(np.mean([total >= abs(differences.sum()) - 1e-9 for total in sums]))


@given(PAIRS)
def test_identical_systems_have_p_1(pairs: list[tuple[float, float]]) -> None:
    values = [a for a, _ in pairs]
    assert randomisation_test(values, values, permutations=100) == 1


@given(PAIRS, st.randoms(use_true_random=False), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_neither_the_side_nor_the_order_of_queries_matters(pairs, random, seed) -> None:  # noqa: ANN001
    a, b = (list(side) for side in zip(*pairs, strict=True))
    p = randomisation_test(a, b, seed, permutations=300)
    assert 0 < p <= 1
    assert randomisation_test(b, a, seed, permutations=300) == p
    random.shuffle(pairs)
    a, b = (list(side) for side in zip(*pairs, strict=True))
    assert randomisation_test(a, b, seed, permutations=300) == p


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]),  # 2 of 64 patterns
        ([1, 1, 1, 1, 0, 0.5], [0, 0, 0, 0, 1, 0.5]),
        ([1, 0.5, 1 / 3, 1, 1, 0, 1, 0], [0.5, 0, 1, 0, 0, 0.5, 0, 0]),
    ],
)
def test_p_is_that_of_all_sign_patterns(a: list[float], b: list[float]) -> None:
    p = exact(a, b)
    assert randomisation_test(a, b) == pytest.approx(p, abs=4 * (p * (1 - p) / PERMUTATIONS) ** 0.5 + 1e-3)


def test_a_difference_that_no_pattern_reaches_has_the_least_p() -> None:
    assert randomisation_test([1.0] * 200, [0.0] * 200) == 1 / (PERMUTATIONS + 1)


def test_chance_is_significant_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    runs = [randomisation_test(*rng.integers(0, 2, (2, 60)), seed=i, permutations=500) for i in range(400)]
    assert 0.01 < np.mean([p < 0.05 for p in runs]) < 0.08


def test_holm_multiplies_and_never_decreases() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([0.2]) == [0.2] and holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_p_and_bonferroni_in_the_same_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for p, one in zip(p_values, corrected, strict=True):
        assert p <= one <= min(1, p * len(p_values)) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()
