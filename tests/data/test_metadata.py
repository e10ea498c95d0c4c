"""Metadata come back as they were added, or are refused by the document's id; they are never changed silently."""

import datetime
import math

import numpy as np
import pytest
from tiny import make_retriever

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index import Index

GOOD = {
    "text": 'says "hi" \\ ☂ \U0001f600 \n\t\x00',
    "numbers": [0, -1, 2**63, 2**64 - 1, -(2**63), 0.1, 1e300, 5e-324, 2.0],
    "others": [True, False, None, [], {}, ""],
    "nested": {"a": {"b": [{"c": [1]}]}},
    "a key with 'quotes'": 1,
}
BAD = {
    "infinite": (math.inf, "NaN or infinite"),
    "not a number": (math.nan, "NaN or infinite"),
    "date": (datetime.date(2031, 5, 4), "a date is no JSON value"),
    "tuple": ((1, 2), "a tuple is no JSON value"),  # it would come back as a list
    "key": ({1: 2}, "the key 1 is no string"),
    "numpy": (np.int64(3), "a int64 is no JSON value"),
    "bytes": (b"x", "a bytes is no JSON value"),
    "large": (2**64, "a number beyond 18446744073709551615"),
    "half": (["x \ud83d"], "half of a surrogate pair"),
    "half key": ({"\ud83d": 1}, "half of a surrogate pair"),
}


@pytest.fixture(scope="module")
def index(reranker, tmp_path_factory):
    documents = [Document("good", "find the lamp", metadata=GOOD)]
    return Index.build(tmp_path_factory.mktemp("metadata") / "index", make_retriever(reranker), documents)


def test_what_is_taken_comes_back(index):
    assert index.get(["good"])[0].metadata == GOOD
    assert Index.open(index.table.uri, index.retriever).search("lamp")[0].metadata == GOOD


@pytest.mark.parametrize(("value", "fault"), BAD.values(), ids=BAD)
def test_what_would_not_come_back_is_refused_before_anything_is_encoded(index, monkeypatch, value, fault):
    monkeypatch.setattr(type(index.retriever), "encode_document", lambda *args: pytest.fail("encodes"))
    documents = [Document("fine", "rain"), Document("pump", "find the pump", metadata={"v": value})]
    with pytest.raises(InputError, match=f"metadata of document 'pump': {fault}"):
        index.add(documents)
    assert len(index) == 1


def test_depth_is_bounded(index):
    value = []
    for _ in range(3000):
        value = [value]
    with pytest.raises(InputError, match="document 'deep': nested more than 16 deep"):
        index.upsert([Document("deep", "rain", metadata={"v": value})])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (Document("\ud83d", "rain"), r"id of document '.ud83d' holds half"),
        (Document("x", "rain \ud83d"), "text of document 'x' holds half"),
        (Document("x", "rain", "\ud83d"), "title of document 'x' holds half"),
        (Document(7, "rain"), "id of document 7 is 7; give a string"),
        (Document("x", None), "text of document 'x' is None; give a string"),
    ],
)
def test_texts_that_the_table_cannot_hold_are_refused(index, document, message):
    with pytest.raises(InputError, match=message):
        index.add([document])
    assert index.get(["\ud83d"]) == []
    with pytest.raises(InputError, match="no document"):
        index.delete(["\ud83d"])
    assert len(index) == 1
