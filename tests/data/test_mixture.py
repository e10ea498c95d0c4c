from dataclasses import replace

import pytest

from rabtriever.data import concatenate, train_dev_split
from rabtriever.errors import InputError


def renamed(data):
    """The same data set under another name, with other texts of its documents."""
    documents = {key: replace(one, text=f"{one.text} here") for key, one in data.documents.items()}
    return replace(data, name="other", documents=documents)


def test_a_union_holds_every_text_and_judgement_under_its_sources_name(tiny_data):
    other = renamed(tiny_data)
    both = concatenate([tiny_data, other])
    assert both.name == "tiny+other" and len(both.documents) == 12 and len(both.queries) == 24
    assert both.documents["other/lamp"].id == "other/lamp"
    assert both.documents["other/lamp"].content == other.documents["lamp"].content
    assert both.qrels["dev"] == {f"{name}/q1": {f"{name}/flight": 1} for name in ("tiny", "other")}
    assert both.qrels["train"]["tiny/q7"] == {"tiny/flight": 1} and len(both.qrels["test"]) == 8


def test_the_limit_is_per_data_set_and_for_labelled_train_queries_alone(tiny_data):
    sources = [tiny_data, renamed(tiny_data)]
    both = concatenate(sources, max_queries_per_dataset=3)
    assert len(both.labelled_queries("train")) == 6 and len(both.labelled_queries("test")) == 8
    assert both.qrels["dev"] == concatenate(sources).qrels["dev"]  # held out before the limit
    assert both == concatenate(sources, max_queries_per_dataset=3)
    assert both.qrels["train"] != concatenate(sources, 3, seed=1).qrels["train"]
    # What the limit leaves out is gone: it must not come back as an unlabelled query.
    assert set(both.queries) == set().union(*both.qrels.values())


def test_one_source_keeps_its_ids(tiny_data):
    assert concatenate([tiny_data]) == train_dev_split(tiny_data)
    assert len(concatenate([tiny_data], 2).labelled_queries("train")) == 2


def test_a_query_that_one_source_holds_out_is_no_train_query_of_another(tiny_data):
    other = replace(tiny_data, name="other", qrels={"train": tiny_data.qrels["test"]})  # the same texts
    both = concatenate([tiny_data, other])
    assert not any(query.startswith("other/") for query in both.qrels["train"])


def test_sources_of_one_name_or_none_and_bad_limits_are_refused(tiny_data):
    with pytest.raises(InputError, match="different names"):
        concatenate([tiny_data, tiny_data])
    with pytest.raises(InputError, match="different names"):
        concatenate([])
    for limited in (tiny_data, replace(tiny_data, qrels={})):
        with pytest.raises(InputError, match="max_queries_per_dataset 0: must be at least 1"):
            concatenate([limited], 0)
        with pytest.raises(InputError, match="max_queries_per_document -1: must be at least 1"):
            concatenate([limited], max_queries_per_document=-1)


def test_a_source_without_labels_gives_its_queries_and_documents(tiny_data):
    unlabelled = replace(renamed(tiny_data), name="unlabelled", qrels={})
    both = concatenate([tiny_data, unlabelled], 3)
    assert len(both.documents) == 12 and len([q for q in both.queries if q.startswith("unlabelled/")]) == 12
    corpus = replace(unlabelled, queries={})
    assert len(concatenate([tiny_data, corpus]).documents) == 12


def test_a_union_knows_which_queries_an_llm_wrote(tiny_data):
    sources = [replace(tiny_data, generated=frozenset(["q1"])), replace(tiny_data, name="other")]
    assert concatenate(sources).generated == {"tiny/q1"} and concatenate(sources[:1]).generated == {"q1"}


def test_documents_of_the_same_text_are_one(tiny_data):
    both = concatenate([tiny_data, replace(tiny_data, name="other")])
    assert list(both.documents) == [f"tiny/{key}" for key in tiny_data.documents]
    assert both.qrels["dev"]["other/q1"] == {"tiny/flight": 1}
    # But for a document that is a query of its data set, which the query must go on to recognise.
    text = tiny_data.documents["lamp"].content
    asked = replace(tiny_data, queries={**tiny_data.queries, "lamp": text})
    found = concatenate([asked, replace(asked, name="other")])
    assert found.is_own_document("other/lamp", "other/lamp") and len(found.documents) == 7


def test_a_document_has_no_more_train_queries_than_the_limit(tiny_data):
    labels = {f"q{i}": {"lamp": 1} for i in range(6)} | {"q6": {"flight": 1}, "q7": {"lamp": 1, "music": 1}}
    data = replace(tiny_data, qrels={"train": labels, "dev": {"q8": {"lamp": 1}}})
    for seed in range(4):
        train = concatenate([data], seed=seed, max_queries_per_document=2).qrels["train"]
        # A query of several documents counts for each, and stays while one of them is short of queries.
        assert len(train.keys() & {f"q{i}" for i in range(6)}) in (1, 2) and {"q6", "q7"} <= train.keys()
        assert concatenate([data], 3, seed, 2).qrels["train"].items() <= labels.items()
        assert len(concatenate([data], 3, seed, 2).qrels["train"]) == 3


def test_the_higher_grade_of_two_equal_documents_counts(tiny_data):
    text = tiny_data.documents["lamp"]
    twins = {**tiny_data.documents, "twin": replace(text, id="twin")}
    data = replace(tiny_data, documents=twins, qrels={"train": {"q0": {"lamp": 1, "twin": 0}, "q1": {"twin": 2}}})
    train = concatenate([data, replace(renamed(tiny_data), qrels={})]).qrels["train"]
    grades = {**train, **concatenate([data, replace(renamed(tiny_data), qrels={})]).qrels.get("dev", {})}
    assert grades == {"tiny/q0": {"tiny/lamp": 1}, "tiny/q1": {"tiny/lamp": 2}}


def test_equal_ids_of_queries_and_documents_alone_do_not_keep_equal_documents_apart(tiny_data):
    queries = {**tiny_data.queries, **dict.fromkeys(tiny_data.documents, "another text")}
    both = concatenate([replace(tiny_data, queries=queries), replace(tiny_data, name="other", queries=queries)])
    assert len(both.documents) == 6
