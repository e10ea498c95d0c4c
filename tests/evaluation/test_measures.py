"""Measures against values worked out by hand, and against their definitions on random runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.errors import InputError
from rabtriever.evaluation import MEASURES, measure, measure_queries
from rabtriever.evaluation.measures import calibration_error

TENTHS = {f"d{i:02}": 1 - i / 100 for i in range(12)}  # d00 first, d11 last


def _values(qrels: dict, run: dict) -> list[float]:
    """R@1, R@3, R@10, MRR@10, nDCG@10."""
    values = measure(qrels, run)
    assert list(values) == ["R@1", "R@3", "R@10", "MRR@10", "nDCG@10"]
    return list(values.values())


@pytest.mark.parametrize(
    ("relevant", "expected"),
    [
        ({"d00": 1}, [1, 1, 1, 1, 1]),
        ({"d02": 1}, [0, 1, 1, 1 / 3, 1 / 2]),  # 1 / log2(4)
        ({"d09": 1}, [0, 0, 1, 1 / 10, 1 / math.log2(11)]),
        ({"d10": 1}, [0, 0, 0, 0, 0]),
        # Two relevant at ranks 1 and 4: recall counts each as a half.
        ({"d00": 1, "d03": 1}, [1 / 2, 1 / 2, 1, 1, (1 + 1 / math.log2(5)) / (1 + 1 / math.log2(3))]),
        # Grades 1 and 3 at ranks 1 and 2: the ideal order is the other one. A grade of 0 changes nothing.
        (
            {"d00": 1, "d01": 3, "d02": 0},
            [1 / 2, 1, 1, 1, (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))],
        ),
        ({"d00": 0, "d01": 1}, [0, 1, 1, 1 / 2, 1 / math.log2(3)]),
        # One relevant document that was never ranked still counts.
        ({"d00": 1, "gone": 1}, [1 / 2, 1 / 2, 1 / 2, 1, 1 / (1 + 1 / math.log2(3))]),
    ],
)
def test_one_query_by_hand(relevant: dict[str, int], expected: list[float]) -> None:
    assert _values({"q": relevant}, {"q": TENTHS}) == pytest.approx(expected)


def test_queries_count_alike_and_an_unretrieved_one_scores_zero() -> None:
    qrels = {"first": {"a": 1}, "absent": {"a": 1}, "empty": {"a": 1}, "second": {"a": 1}}
    run = {"first": {"a": 2.0, "b": 1.0}, "second": {"a": 1.0, "b": 2.0}, "empty": {}}
    assert _values(qrels, run) == pytest.approx([1 / 4, 2 / 4, 2 / 4, 1.5 / 4, (1 + 1 / math.log2(3)) / 4])
    assert _values(qrels, {}) == [0, 0, 0, 0, 0]


def test_unlabelled_queries_are_ignored() -> None:
    run = {"q": {"a": 1.0}, "other": {"b": 1.0}}
    assert _values({"q": {"a": 1}}, run) == [1, 1, 1, 1, 1]


def test_all_measures_break_ties_alike_by_the_greater_id() -> None:
    tied = {"q": {"a": 5.0, "b": 5.0}}
    assert _values({"q": {"b": 1}}, tied) == [1, 1, 1, 1, 1]
    assert _values({"q": {"a": 1}}, tied) == pytest.approx([0, 1, 1, 1 / 2, 1 / math.log2(3)])


def test_scores_closer_than_single_precision_are_no_tie() -> None:
    assert _values({"q": {"a": 1}}, {"q": {"a": 1.0 + 1e-12, "b": 1.0}}) == [1, 1, 1, 1, 1]


def test_no_labels_and_scores_that_do_not_rank_are_refused() -> None:
    with pytest.raises(InputError, match="no labelled queries"):
        measure({}, {"q": {"a": 1.0}})
    for score in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="score of document 'a' is .* not a finite number"):
            measure({"q": {"a": 1}}, {"q": {"a": score}})


DOCUMENTS = [f"d{i}" for i in range(14)]
SOME_QRELS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3), min_size=1).filter(
        lambda grades: any(grades.values())
    ),
    min_size=1,
)
SOME_RUN = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-3, 3).map(float)),  # few values, many ties
)


@given(qrels=SOME_QRELS, run=SOME_RUN)
def test_measures_are_what_their_definitions_say(qrels: dict, run: dict) -> None:
    expected = {query: _by_definition(grades, run.get(query, {})) for query, grades in qrels.items()}
    rows = measure_queries(qrels, run)
    assert list(rows) == list(qrels)
    assert all(rows[query] == pytest.approx(values) for query, values in expected.items())
    means = {name: sum(values[name] for values in expected.values()) / len(qrels) for name in MEASURES}
    assert measure(qrels, run) == pytest.approx(means)


def _by_definition(grades: dict[str, int], scores: dict[str, float]) -> dict[str, float]:
    order = [
        document for _, document in sorted(((score, document) for document, score in scores.items()), reverse=True)
    ]
    found = [grades.get(document, 0) for document in order]
    ideal = sorted(grades.values(), reverse=True)
    hits = [rank for rank, grade in enumerate(found[:10], start=1) if grade > 0]

    def dcg(gains: list[int]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:10], start=1))

    relevant = sum(grade > 0 for grade in grades.values())
    recall = {f"R@{k}": sum(rank <= k for rank in hits) / relevant for k in (1, 3, 10)}
    return recall | {"MRR@10": 1 / hits[0] if hits else 0, "nDCG@10": dcg(found) / dcg(ideal)}


def test_calibration_error_of_calibrated_and_of_overconfident_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random(100_000)
    labels = rng.random(100_000) < p
    assert calibration_error(p, labels) < 0.01
    assert calibration_error(np.full(1000, 0.9), np.arange(1000) < 500) == pytest.approx(0.4, abs=1e-6)
