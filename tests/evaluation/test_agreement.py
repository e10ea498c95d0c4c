"""Agreement: the same first document, and the correlation of log-odds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.evaluation.measures import agreement


def _agreement(*pairs: tuple[dict[str, float], dict[str, float]]) -> dict[str, float | None]:
    runs = ({str(query): pair[system] for query, pair in enumerate(pairs)} for system in (0, 1))
    return agreement(*runs)


def test_top1_agreement_is_the_share_of_queries_with_one_winner() -> None:
    report = _agreement(
        ({"a": 2.0, "b": 1.0}, {"a": -1.0, "b": -2.0}),  # both a
        ({"a": 2.0, "b": 1.0}, {"b": -1.0, "a": -2.0}),  # a, b
        ({"b": 1.0, "a": 2.0}, {"b": 1.0}),  # both b: the order is the ranking
        ({}, {}),  # no first document
        ({"a": 1.0}, {}),
    )
    assert report["top1_agreement"] == 2 / 5


def test_pearson_runs_over_all_pairs_that_both_scored() -> None:
    report = _agreement(
        ({"a": 1.0, "b": 2.0, "retriever only": 99.0}, {"b": 1.0, "a": 2.0}),
        ({"a": 3.0}, {"a": 4.0, "reranker only": -99.0}),
    )
    # Pairs (1, 2), (2, 1), (3, 4): deviations -1, 0, 1 and -1/3, -4/3, 5/3; 2 / sqrt(2 * 42/9).
    assert report["pearson"] == pytest.approx(2 / (2 * 42 / 9) ** 0.5)


@pytest.mark.parametrize(
    "pair",
    [({"a": 1.0}, {"b": 1.0}), ({"a": 1.0}, {"a": 1.0}), ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}), ({}, {})],
)
def test_pearson_is_none_where_nothing_varies_together(pair: tuple[dict[str, float], dict[str, float]]) -> None:
    assert _agreement(pair)["pearson"] is None


@given(
    scores=st.lists(st.integers(-50, 50), min_size=2, max_size=8, unique=True),
    slope=st.sampled_from([-3.0, 0.5, 20.0]),
    shift=st.integers(-9, 9),
)
def test_pearson_does_not_see_scale_and_shift(scores: list[int], slope: float, shift: int) -> None:
    retriever = {str(i): float(score) for i, score in enumerate(scores)}
    reranker = {document: slope * score + shift for document, score in retriever.items()}
    assert _agreement((retriever, reranker))["pearson"] == pytest.approx(1.0 if slope > 0 else -1.0)
