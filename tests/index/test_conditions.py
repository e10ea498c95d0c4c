"""Conditions over metadata without a schema."""

import pytest
from tiny import make_retriever

from rabtriever.data import Document
from rabtriever.index import Index

VALUES = {
    "drill": 120,
    "saw": "ask us",
    "nail": 1,
    "glue": 1.5,
    "tape": 2.0,
    "rope": "7",
    "paint": [1, 2],
    "box": {"a": 3},
    "lamp": True,
    "plug": "false",
    "none": None,
    "huge": 2**64 - 1,
    "far": 1e300,
    "odd": "nan",
    "word": 'say "☂"\n',
}


@pytest.fixture(scope="module")
def index(reranker, tmp_path_factory):
    values = {name: {"v": value, "a {[b": 1} for name, value in VALUES.items()}
    documents = [Document(name, f"find the {name}", metadata=metadata) for name, metadata in values.items()]
    documents.append(Document("bare", "find the table"))
    return Index.build(tmp_path_factory.mktemp("conditions") / "index", make_retriever(reranker), documents)


NUMBERS = {"drill", "nail", "glue", "tape", "rope", "huge", "far"}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("json_get_int(metadata, 'v') > 50", {"drill"}),
        ("json_get_int(metadata, 'v') IS NOT NULL", {"drill", "nail", "tape", "rope"}),
        ("json_get_int(metadata, 'v') = 2", {"tape"}),  # 1.5 is not rounded
        ("json_get_float(metadata, 'v') = 1.5", {"glue"}),
        ("json_get_float(metadata, 'v') IS NOT NULL", NUMBERS),
        ("json_get_float(metadata, 'v') > 1e299", {"far"}),  # "nan" is a word
        ("json_get_bool(metadata, 'v')", {"lamp"}),
        ("NOT json_get_bool(metadata, 'v')", {"plug"}),
        ("json_get_string(metadata, 'v') = 'ask us'", {"saw"}),
        ("JSON_GET_STRING ( metadata , 'v' ) = '120'", {"drill"}),
        ("json_get_string(metadata, 'v') LIKE '%\"☂\"%'", {"word"}),
        ("json_get_string(metadata, 'v') IS NULL", {"paint", "box", "none", "bare"}),
        ("json_get_string(metadata, 'a {[b') = '1' AND id = 'box'", {"box"}),
        ("json_get_string(metadata, 'it''s') = '1'", set()),
        ("json_get_int(json_get(metadata, 'v'), 'a') = 3", {"box"}),
        ("id = 'json_get_int(metadata, 1)' OR json_get_int(metadata, 'v') IN (1, 2)", {"nail", "tape"}),
    ],
)
def test_a_value_of_another_kind_is_null(index, where, expected):
    assert {hit.id for hit in index.search("a tool", k=99, where=where)} == expected
    found = {hit.id for hit in index.search("find", k=99, where=where, mode="bm25")}
    assert found == expected
