import pytest

from rabtriever.data import Document, with_context
from rabtriever.errors import InputError
from rabtriever.index import Index

DOCUMENTS = [
    Document("a", "find the weather", "Weather"),
    Document("b'", "a recipe for bread", "Cook"),
    Document("c", "turn the lamp light", ""),
]
HISTORY, USED = ["User: it is dark", "Bot: what room?"], ["c", "b'", "c"]
TEXT = with_context("the table", HISTORY, ["turn the lamp light", "Cook", "turn the lamp light"])


@pytest.fixture
def index(retriever, tmp_path):
    return Index.build(tmp_path / "index", retriever, DOCUMENTS)


@pytest.mark.parametrize("options", [{}, {"rerank": 3}, {"mode": "bm25"}, {"where": "id NOT IN ('c')"}])
def test_a_search_with_context_is_one_of_the_composed_text(index, options):
    expected = index.search(TEXT, **options)
    assert index.search("the table", history=HISTORY, used=USED, **options) == expected
    assert TEXT.startswith("User: it is dark\nBot: what room?\nthe table\nDone so far: turn the lamp light; Cook")


def test_used_documents_can_be_found_again(index):
    assert {hit.id for hit in index.search("the table", used=["a", "b'", "c"])} == {"a", "b'", "c"}


def test_several_queries_have_a_list_each(index):
    both = index.search(["the table", "rain"], history=(HISTORY, []), used=[USED, []])
    assert both == [index.search(TEXT), index.search("rain")]
    assert index.search(["rain"], history=None, used=[["a"]]) == [index.search("rain", used=("a",))]
    assert index.search([], history=[], used=[]) == []


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_without_context_nothing_changes(index, nothing):
    assert index.search("rain", history=nothing, used=nothing) == index.search("rain")
    assert index.with_context([" rain "], [[]], [[]]) == [" rain "]


@pytest.mark.parametrize(
    ("queries", "context", "message"),
    [
        ("rain", {"history": "hello"}, "history: expected a list of texts, got 'hello'; wrap it in a list"),
        ("rain", {"used": 3}, "used: expected a list of texts, got 3"),
        ("rain", {"history": ["hello", " "]}, "history 1: ' ' has no tokens"),
        ("rain", {"history": [["hello"]]}, "history 0: .* has no tokens"),
        (["rain"], {"history": ["hello"]}, "history: expected a list of texts, got 'hello'"),
        (["rain", "snow"], {"history": [["hello"]]}, "history: expected a list for each of 2 queries"),
        (["rain"], {"used": 3}, "used: expected a list for each of 1 queries"),
        ("rain", {"used": ["a", "nobody"]}, "used: no document 'nobody' in the index; leave it out"),
        (" ", {"used": ["a"]}, "query 0: ' ' has no tokens"),
    ],
)
def test_what_is_wrong_is_named(index, queries, context, message):
    with pytest.raises(InputError, match=message):
        index.search(queries, **context)
