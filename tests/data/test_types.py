"""What a document shows to models, and which queries a split holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.data import Document, RetrievalData
from rabtriever.errors import InputError

DATA = RetrievalData(
    "shop",
    {"a": Document("a", "lamp"), "b": Document("b", "rope")},
    {f"q{i}": f"query {i}" for i in range(20)},
    {
        "test": {"q7": {"a": 0, "b": 2}, "q3": {"a": 1}, "q5": {"a": 0}, "q6": {"b": -1}},
        "train": {f"q{i}": {"a": 1} for i in range(20)},
        "junk": {"q0": {"a": 0}},
    },
)


@pytest.mark.parametrize(
    ("title", "text", "content"),
    [
        ("Lamp", "gives light", "Lamp: gives light"),
        ("Lamp", "", "Lamp"),
        ("", "gives light", "gives light"),
        (" ", "gives light", "gives light"),
        ("Lamp", "\n", "Lamp"),
        ("", " ", ""),
    ],
)
def test_content_is_title_and_text_or_the_one_there_is(title: str, text: str, content: str) -> None:
    assert Document("d", text, title).content == content


def test_judged_are_the_queries_with_a_positive_judgement_in_file_order() -> None:
    assert DATA.labelled_queries("test") == {"q3": "query 3", "q7": "query 7"}
    assert list(DATA.labelled_queries("test")) == ["q3", "q7"]


@given(limit=st.integers(1, 30), more=st.integers(0, 30), seed=st.integers(0, 99))
def test_samples_keep_the_order_repeat_with_their_seed_and_nest(limit: int, more: int, seed: int) -> None:
    sample, larger = DATA.labelled_queries("train", limit, seed), DATA.labelled_queries("train", limit + more, seed)
    assert len(sample) == min(limit, 20)
    assert list(sample) == [query for query in DATA.queries if query in sample]
    assert sample == DATA.labelled_queries("train", limit, seed)
    assert sample.items() <= larger.items()


def test_another_seed_draws_another_sample() -> None:
    assert len({tuple(DATA.labelled_queries("train", 5, seed)) for seed in range(10)}) > 5


def test_an_unknown_split_names_those_there_are() -> None:
    with pytest.raises(
        InputError, match=r"shop has no split 'dev': choose from test, train, junk, or add qrels/dev\.tsv"
    ):
        DATA.labelled_queries("dev")
    with pytest.raises(InputError, match="no qrels at all"):
        RetrievalData("bare", DATA.documents, DATA.queries, {}).labelled_queries("test")


def test_a_split_without_a_positive_judgement_and_a_limit_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="split 'junk' of shop has no query with a relevant document"):
        DATA.labelled_queries("junk")
    with pytest.raises(InputError, match="a limit of 0"):
        DATA.labelled_queries("train", limit=0)


ARGUANA = RetrievalData(
    "arguana",
    {
        "a": Document("a", "Zoos are cruel.", "Zoos"),
        "b": Document("b", "Zoos teach.", ""),
        "c": Document("c", "Zoos cost.", "Money"),
    },
    {"a": " Zoos: Zoos are cruel.\n", "b": "Zoos teach.", "c": "What do zoos cost?", "d": "Zoos teach."},
    {"test": {"a": {"a": 1, "b": 1}, "b": {"b": 2}, "c": {"c": 1}, "d": {"b": 1}}},
)


def test_a_querys_own_document_has_its_id_and_its_text() -> None:
    """As in ArguAna and Quora, whose corpora hold the queries."""
    own = {(q, d) for q in ARGUANA.queries for d in ARGUANA.documents if ARGUANA.is_own_document(q, d)}
    assert own == {("a", "a"), ("b", "b")}  # text with or without title; neither the same id alone nor the same text
    assert not ARGUANA.is_own_document("d", "missing") and not ARGUANA.is_own_document("d", "d")


def test_a_querys_own_document_is_never_relevant() -> None:
    assert ARGUANA.positives("test") == {"a": ["b"], "c": ["c"], "d": ["b"]}
    assert list(ARGUANA.labelled_queries("test")) == ["a", "c", "d"]
    assert not ARGUANA.is_labelled("test", "b") and ARGUANA.is_positive("test", "d", "b")
    assert not ARGUANA.is_positive("test", "a", "a") and not ARGUANA.is_positive("test", "a", "c")
