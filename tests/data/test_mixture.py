from dataclasses import replace

import pytest

from rabtriever.data import concatenate
from rabtriever.errors import InputError


def test_a_mixture_holds_every_text_and_judgement_under_its_sources_name(tiny_data):
    other = replace(tiny_data, name="other")
    both = concatenate([tiny_data, other])
    assert both.name == "tiny+other" and len(both.documents) == 12 and len(both.queries) == 24
    assert both.documents["other/lamp"].id == "other/lamp"
    assert both.documents["other/lamp"].content == tiny_data.documents["lamp"].content
    assert both.qrels["dev"] == {f"{name}/q0": {f"{name}/weather": 1} for name in ("tiny", "other")}
    assert both.qrels["train"]["tiny/q7"] == {"tiny/flight": 1} and len(both.qrels["test"]) == 8


def test_each_source_gives_at_most_so_many_train_queries_and_keeps_its_other_splits(tiny_data):
    both = concatenate([tiny_data, replace(tiny_data, name="other")], most=3)
    assert len(both.labelled_queries("train")) == 6 and len(both.labelled_queries("test")) == 8
    assert both.qrels["train"] == concatenate([tiny_data, replace(tiny_data, name="other")], most=3).qrels["train"]


def test_one_source_stays_as_it_is(tiny_data):
    assert concatenate([tiny_data]) is tiny_data
    assert len(concatenate([tiny_data], most=2).labelled_queries("train")) == 2


def test_sources_of_one_name_or_none_are_refused(tiny_data):
    with pytest.raises(InputError, match="different names"):
        concatenate([tiny_data, tiny_data])
    with pytest.raises(InputError, match="different names"):
        concatenate([])
    with pytest.raises(InputError, match="at least 1"):
        concatenate([tiny_data], most=0)


def test_a_source_whose_queries_would_be_lost_is_refused(tiny_data):
    unlabelled = replace(tiny_data, name="unlabelled", qrels={})
    with pytest.raises(InputError, match="unlabelled has queries, but no qrels/train.tsv"):
        concatenate([tiny_data, unlabelled])
    corpus = replace(unlabelled, queries={})
    assert len(concatenate([tiny_data, corpus]).documents) == 12
