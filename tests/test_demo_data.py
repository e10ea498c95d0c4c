"""The demo task: well-formed, complete, and solvable only by a reason, never by a shared word."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "src" / "rabtriever" / "demo"

# Articles, forms of "be" and the commonest prepositions: a list this short keeps the check strict.
STOP_WORDS = frozenset(
    """
    a an and are as at be but by for if in into is it no not of on or such that the their then there these they this
    to was will with
    """.split()
)


@pytest.fixture(scope="module")
def documents() -> dict[str, str]:
    return {row["_id"]: f"{row['title']} {row['text']}" for row in _rows("corpus.jsonl")}


@pytest.fixture(scope="module")
def requests() -> dict[str, str]:
    return {row["_id"]: row["text"] for row in _rows("queries.jsonl")}


@pytest.fixture(scope="module")
def judgements() -> list[tuple[str, str, str]]:
    header, *lines = (DEMO / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    return [(query, document, grade) for query, document, grade in (line.split("\t") for line in lines)]


def test_corpus_is_large_enough_and_ids_are_unique() -> None:
    rows = _rows("corpus.jsonl")
    assert len(rows) >= 60
    for key in ("_id", "title", "text"):
        assert len({row[key] for row in rows}) == len(rows), f"two documents share their {key}"
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", row["_id"]) for row in rows)


def test_descriptions_are_one_or_two_short_sentences() -> None:
    lengths = {row["_id"]: len(row["text"].split()) for row in _rows("corpus.jsonl")}
    assert {key: n for key, n in lengths.items() if not 12 <= n <= 25} == {}


def test_there_are_forty_different_requests_of_natural_length() -> None:
    rows = _rows("queries.jsonl")
    assert len(rows) == 40
    assert len({row["_id"] for row in rows}) == len({row["text"] for row in rows}) == 40
    assert [row["text"] for row in rows if not 8 <= len(row["text"].split()) <= 25] == []


def test_every_request_has_one_right_document_and_no_two_the_same(
    documents: dict[str, str], requests: dict[str, str], judgements: list[tuple[str, str, str]]
) -> None:
    assert sorted(query for query, _, _ in judgements) == sorted(requests)
    assert {document for _, document, _ in judgements} <= documents.keys()
    assert len({document for _, document, _ in judgements}) == len(judgements)
    assert {grade for _, _, grade in judgements} == {"1"}


def test_no_request_shares_a_content_word_with_its_document(
    documents: dict[str, str], requests: dict[str, str], judgements: list[tuple[str, str, str]]
) -> None:
    shared = {requests[q]: words for q, d, _ in judgements if (words := _shared(requests[q], documents[d]))}
    assert shared == {}


@pytest.mark.parametrize(
    ("request_text", "document"),
    [
        ("I baked two cakes", "bakes a cake"),
        ("we are planning", "Plans trips"),
        ("my parties", "Books a party"),
        ("what a day in the world", "news worldwide"),
        ("e-mails", "Mail reader"),
    ],
)
def test_the_check_sees_through_inflection(request_text: str, document: str) -> None:
    assert _shared(request_text, document)


def _shared(request: str, document: str) -> set[str]:
    """Stems of the request that also occur in the document, alone or as the beginning of a compound."""
    theirs = _stems(document)
    return {mine for mine in _stems(request) for other in theirs if mine == other or _begins_the_same(mine, other)}


def _begins_the_same(one: str, other: str) -> bool:
    return min(len(one), len(other)) >= 4 and (one.startswith(other) or other.startswith(one))


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in STOP_WORDS}


def _stem(word: str) -> str:
    """Strip plural, -ed and -ing, then what their spelling rules add: a final e, y for i, a doubled consonant."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending)
            break
    word = re.sub(r"([^aeiou])\1$", r"\1", word)
    return re.sub(r"(?<=..)(e|i|y)$", "", word)


def _rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DEMO / name).read_text(encoding="utf-8").splitlines()]
