"""BM25: only documents that share a term, scored as the formula says."""

from __future__ import annotations

import math

import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.evaluation import BM25

DOCUMENTS = [
    Document("lamp", "light light room", "lamp"),
    Document("torch", "light outside"),
    Document("rope", "ties things together"),
]


def test_scores_are_those_of_the_formula() -> None:
    scores = BM25(DOCUMENTS)("some light")
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    mean_length = (4 + 2 + 3) / 3

    def expected(count: int, length: int) -> float:
        return idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * length / mean_length))

    assert scores == pytest.approx({"lamp": expected(2, 4), "torch": expected(1, 2)}, rel=1e-5)


def test_titles_are_searched_too() -> None:
    assert list(BM25(DOCUMENTS)("my lamp")) == ["lamp"]


@pytest.mark.parametrize("query", ["", "the of and", "zebra", "?!"])
def test_a_query_that_shares_no_term_retrieves_nothing(query: str) -> None:
    assert BM25(DOCUMENTS)(query) == {}


def test_a_corpus_without_a_single_term_retrieves_nothing() -> None:
    assert BM25([Document("a", "the"), Document("b", "of")])("the light") == {}


def test_some_document_must_be_there() -> None:
    with pytest.raises(InputError, match="no documents"):
        BM25([])
