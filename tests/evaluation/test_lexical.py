"""BM25 without a model: only documents that share a word, scored as the formula says."""

from __future__ import annotations

import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.evaluation.lexical import lexical_index

DOCUMENTS = [
    Document("torch", "light outside the large old house"),
    Document("lamp", "light light room", "lamp"),
    Document("rope", "ties things together"),
]


def found(documents: list[Document], query: str) -> list[str]:
    return [hit.id for hit in lexical_index(documents).search(query, mode="bm25")]


def test_frequent_words_in_short_documents_rank_first() -> None:
    assert found(DOCUMENTS, "some light") == ["lamp", "torch"]


def test_titles_are_searched_too_and_words_are_stemmed() -> None:
    assert found(DOCUMENTS, "my lamps") == ["lamp"]


@pytest.mark.parametrize("query", ["", "the of and", "zebra", "?!"])
def test_a_query_that_shares_no_word_finds_nothing(query: str) -> None:
    assert found(DOCUMENTS, query) == []


def test_a_corpus_without_a_single_word_finds_nothing() -> None:
    assert found([Document("a", "the"), Document("b", "of")], "the light") == []


def test_all_documents_can_be_listed_for_a_reranker() -> None:
    hits = lexical_index(DOCUMENTS).search("whatever", k=9, mode="exact")
    assert [hit.id for hit in hits] == ["torch", "lamp", "rope"]


def test_at_least_one_document_is_needed() -> None:
    with pytest.raises(InputError, match="no documents"):
        lexical_index([])
