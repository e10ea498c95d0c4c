"""One split rule: no command ever trains on a query that another command measures on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.data import Document, RetrievalData, concatenate, dev_queries, train_dev_split, training_queries
from rabtriever.data.splits import _normalize
from rabtriever.errors import InputError

DOCUMENTS = {"a": Document("a", "lamp"), "b": Document("b", "rope")}
SPLITS = st.sampled_from(["train", "dev", "test", "none"])
TEXTS = st.integers(0, 60).map(lambda number: f"Text {number}")


def texts_of(data: RetrievalData, split: str) -> set[str]:
    return {_normalize(data.queries[query]) for query in data.qrels.get(split, {})}


@st.composite
def data_sets(draw: st.DrawFn, name: str = "shop", splits: st.SearchStrategy[str] = SPLITS) -> RetrievalData:
    """Queries of few texts, so that texts repeat within and between splits and data sets; some without a positive."""
    rows = draw(st.lists(st.tuples(TEXTS, splits, st.sampled_from([1, 1, 1, 0])), min_size=1, max_size=60))
    queries = {f"q{i}": text for i, (text, _, _) in enumerate(rows)}
    qrels: dict[str, dict[str, dict[str, int]]] = {}
    for i, (_, split, grade) in enumerate(rows):
        if split != "none":
            qrels.setdefault(split, {})[f"q{i}"] = {"a": grade, "b": 0}
    return RetrievalData(name, DOCUMENTS, queries, qrels)


@given(data_sets())
def test_train_shares_no_text_with_another_split_and_nothing_else_is_lost(data: RetrievalData) -> None:
    split = train_dev_split(data)
    held_out = set().union(*(texts_of(split, name) for name in split.qrels if name != "train"))
    assert texts_of(split, "train").isdisjoint(held_out)
    assert split.queries == data.queries and split.documents == data.documents
    for name in data.qrels:
        if name != "train" and data.qrels[name]:
            assert split.qrels[name] == data.qrels[name]
    for query, grades in data.qrels.get("train", {}).items():
        assert _normalize(data.queries[query]) in held_out or split.qrels["train"][query] == grades
    if not data.qrels.get("dev"):  # what is held out is the train split's own
        assert split.qrels.get("dev", {}).items() <= data.qrels.get("train", {}).items()
        assert texts_of(split, "dev").isdisjoint(texts_of(data, "test"))


@given(data_sets(), st.randoms())
def test_neither_order_nor_repetition_changes_the_split(data: RetrievalData, random: object) -> None:
    split = train_dev_split(data)
    assert train_dev_split(split) == split
    order = list(data.queries)
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = replace(
        data,
        queries={query: data.queries[query] for query in order},
        qrels={name: {q: qrels[q] for q in order if q in qrels} for name, qrels in data.qrels.items()},
    )
    again = train_dev_split(shuffled)
    assert {name: set(qrels) for name, qrels in again.qrels.items()} == {n: set(q) for n, q in split.qrels.items()}


@given(
    data_sets("one"),
    data_sets("two"),
    st.integers(1, 30),
    st.one_of(st.none(), st.integers(1, 30)),
    st.integers(0, 9),
    st.booleans(),
)
def test_teacher_and_student_never_see_each_others_dev_queries(
    one: RetrievalData, two: RetrievalData, few: int, more: int | None, seed: int, turned: bool
) -> None:
    """Whatever limits, seeds and order of data sets the two commands were given."""
    teacher = concatenate([one, two], few, seed)
    student = concatenate([two, one] if turned else [one, two], more, 0)
    assert texts_of(teacher, "dev") == texts_of(student, "dev")
    for data in (teacher, student):
        for split in ("dev", "test"):
            assert texts_of(data, "train").isdisjoint(texts_of(student, split))
        try:
            trained = training_queries(data, few, seed)
        except InputError:
            continue
        trained_texts = {_normalize(data.queries[query]) for query in trained}
        assert trained_texts.isdisjoint(texts_of(student, "dev") | texts_of(student, "test"))
    # A model of the union has seen no dev query of one data set alone.
    for alone in (one, two):
        assert texts_of(teacher, "train").isdisjoint(texts_of(train_dev_split(alone), "dev"))


def large(name: str, numbers: range) -> RetrievalData:
    queries = {f"{name}{i}": f"text number {i}" for i in numbers}
    return RetrievalData(name, DOCUMENTS, queries, {"train": {query: {"a": 1} for query in queries}})


def test_a_tenth_is_held_out_and_the_same_texts_wherever_they_occur() -> None:
    data = large("large", range(5499))
    split = train_dev_split(data)
    assert len(split.qrels["dev"]) == pytest.approx(550, abs=80)
    assert len(split.qrels["dev"]) + len(split.qrels["train"]) == 5499
    assert len(dev_queries(split)) == 500
    part = train_dev_split(large("part", range(3000, 7000)))
    both = range(3000, 5499)
    held_out = [
        {i for i in both if f"{name}{i}" in made.qrels["dev"]} for name, made in (("large", split), ("part", part))
    ]
    assert held_out[0] == held_out[1] and held_out[0]


def test_case_spaces_and_the_encoding_of_characters_make_no_other_text() -> None:
    queries = {"a": "Où est  le café?", "b": "où EST le cafe\u0301?", "c": "something else"}
    data = RetrievalData("shop", DOCUMENTS, queries, {"train": {q: {"a": 1} for q in "ac"}, "test": {"b": {"a": 1}}})
    assert list(train_dev_split(data).qrels["train"]) == ["c"]


def test_at_least_one_query_is_held_out_but_never_all() -> None:
    for number in range(50):
        assert "dev" not in train_dev_split(large("one", range(number, number + 1))).qrels
        two = train_dev_split(large("two", range(number, number + 2)))
        assert len(two.qrels["dev"]) == len(two.qrels["train"]) == 1


def test_without_train_and_with_dev_nothing_is_held_out(tiny_data: RetrievalData) -> None:
    only_test = replace(tiny_data, qrels={"test": tiny_data.qrels["test"]})
    assert train_dev_split(only_test) is only_test
    split = train_dev_split(tiny_data)
    assert len(split.qrels["dev"]) == 1 and split.qrels["train"] | split.qrels["dev"] == tiny_data.qrels["train"]


def test_unlabelled_queries_stay_beside_labelled_ones_whatever_the_limit(tiny_data: RetrievalData) -> None:
    train = tiny_data.qrels["train"]
    few = train_dev_split(replace(tiny_data, qrels={"train": {q: train[q] for q in ("q0", "q1", "q2")}}))
    queries = training_queries(few)
    assert list(queries) == [f"q{i}" for i in range(12) if i not in few_dev(few)]
    assert sum(map(bool, queries.values())) == 2
    limited = training_queries(few, 1)
    assert sum(map(bool, limited.values())) == 1 and len(limited) == len(queries) - 1
    assert len(training_queries(train_dev_split(replace(tiny_data, qrels={})))) == 12


def few_dev(data: RetrievalData) -> set[int]:
    return {int(query[1:]) for query in data.qrels["dev"]}


def test_an_unlabelled_query_with_a_held_out_text_is_not_trained_on(tiny_data: RetrievalData) -> None:
    tiny_data.queries["copy"] = tiny_data.queries["q8"].upper()  # q8 is a test query
    assert "copy" not in training_queries(train_dev_split(tiny_data))


def test_a_query_with_negative_judgements_alone_is_unlabelled(tiny_data: RetrievalData) -> None:
    tiny_data.qrels["train"]["q0"] = {"lamp": 0}
    assert training_queries(train_dev_split(tiny_data))["q0"] == []


def test_where_no_query_is_left_it_is_an_error_and_a_dev_split_may_be_missing(tiny_data: RetrievalData) -> None:
    test_alone = replace(tiny_data, qrels={"test": {query: {"lamp": 1} for query in tiny_data.queries}})
    with pytest.raises(InputError, match="tiny: no query to train on"):
        training_queries(test_alone)
    assert dev_queries(test_alone) == {}
    assert dev_queries(replace(tiny_data, qrels={"dev": {"q0": {"lamp": 0}}})) == {}


def test_no_query_that_an_llm_wrote_is_held_out(tiny_data):
    held_out = train_dev_split(tiny_data).qrels["dev"]
    marked = train_dev_split(replace(tiny_data, generated=frozenset(held_out)))
    assert held_out and marked.qrels["dev"].keys().isdisjoint(held_out)
    everything = train_dev_split(replace(tiny_data, generated=frozenset(tiny_data.queries)))
    assert "dev" not in everything.qrels and everything.qrels["train"] == tiny_data.qrels["train"]


def test_parts_of_the_train_split_hold_nothing_out(tiny_data: RetrievalData) -> None:
    part = dict(list(tiny_data.qrels["train"].items())[::2])
    more = replace(tiny_data, qrels={**tiny_data.qrels, "train_short": part})
    assert training_queries(train_dev_split(more)) == training_queries(train_dev_split(tiny_data))


def test_parts_follow_the_train_split(tiny_data: RetrievalData) -> None:
    """Else what is left out of it would make them splits of their own, the next time."""
    train = tiny_data.qrels["train"]
    held = {"held": train[next(iter(train))]}
    texts = {**tiny_data.queries, "held": tiny_data.queries[next(iter(train))]}
    more = replace(tiny_data, queries=texts, qrels={**tiny_data.qrels, "train_all": train, "test": held})
    once = train_dev_split(more)
    assert once.qrels["train_all"].keys() == once.qrels["train"].keys() and len(once.qrels["train"]) > 1
    assert train_dev_split(once) == once and training_queries(once).keys() >= once.qrels["train"].keys()


def test_a_split_with_queries_of_its_own_is_held_out_whatever_its_name(tiny_data: RetrievalData) -> None:
    first, *_ = tiny_data.qrels["train"]
    other = {**tiny_data.queries, "other": "a query that train does not have"}
    held = {first: tiny_data.qrels["train"][first], "other": tiny_data.qrels["train"][first]}
    more = replace(tiny_data, queries=other, qrels={**tiny_data.qrels, "train_dev": held})
    assert not {first, "other"} & training_queries(train_dev_split(more)).keys()


def test_a_warning_says_when_other_splits_hold_most_train_queries(tiny_data: RetrievalData) -> None:
    train = dict(list(tiny_data.qrels["train"].items())[1:])
    overlapping = replace(tiny_data, qrels={**tiny_data.qrels, "again": train})
    with pytest.warns(UserWarning, match=f"{len(train)} of {len(train) + 1} train queries are left out"):
        train_dev_split(overlapping)
