"""The demo task: well-formed, complete, and solvable only by a reason, never by a shared word."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from rabtriever.data import load_data
from rabtriever.evaluation import evaluate
from rabtriever.evaluation.lexical import lexical_index

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
def labels() -> list[tuple[str, str, str]]:
    header, *lines = (DEMO / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    return [(query, document, grade) for query, document, grade in (line.split("\t") for line in lines)]


def test_there_are_150_documents_that_differ_in_id_title_and_text() -> None:
    rows = _rows("corpus.jsonl")
    assert len(rows) == 150
    for key in ("_id", "title", "text"):
        assert len({row[key] for row in rows}) == len(rows), f"two documents share their {key}"
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", row["_id"]) for row in rows)


def test_descriptions_are_one_or_two_short_sentences() -> None:
    lengths = {row["_id"]: len(row["text"].split()) for row in _rows("corpus.jsonl")}
    assert {key: n for key, n in lengths.items() if not 12 <= n <= 25} == {}


@pytest.mark.parametrize(("name", "n"), [("queries.jsonl", 200), ("no_answer.jsonl", 30)])
def test_requests_are_different_and_of_natural_length(name: str, n: int) -> None:
    rows = _rows(name)
    assert len(rows) == n
    assert len({row["_id"] for row in rows}) == len({row["text"] for row in rows}) == n
    assert [row["text"] for row in rows if not 6 <= len(row["text"].split()) <= 40] == []


def test_requests_without_an_answer_stand_apart_from_the_task(
    documents: dict[str, str], requests: dict[str, str], labels: list[tuple[str, str, str]]
) -> None:
    rows = _rows("no_answer.jsonl")
    assert all(row.keys() == {"_id", "text"} for row in rows)
    assert {row["_id"] for row in rows}.isdisjoint({*requests, *documents, *(query for query, _, _ in labels)})
    assert {row["text"] for row in rows}.isdisjoint(requests.values())


def test_every_request_has_one_right_document_and_no_document_many_requests(
    documents: dict[str, str], requests: dict[str, str], labels: list[tuple[str, str, str]]
) -> None:
    assert sorted(query for query, _, _ in labels) == sorted(requests)
    n_requests = Counter(document for _, document, _ in labels)
    assert n_requests.keys() <= documents.keys()
    assert len(n_requests) >= 110
    assert max(n_requests.values()) <= 3
    assert {grade for _, _, grade in labels} == {"1"}


def test_bm25_finds_no_right_document() -> None:
    data = load_data(DEMO)
    lexical = lexical_index(data.documents.values())
    bm25 = evaluate(data, {"bm25": partial(lexical.search, k=len(data.documents), mode="bm25")})["systems"]["bm25"]
    assert bm25.pop("ms_per_query") and bm25.pop("R@1_interval") == [0, 0] and not any(bm25.values())
    assert any(lexical.search(list(data.queries.values()), mode="bm25"))  # some requests share words with wrong ones


def test_no_request_shares_a_content_word_with_its_document(
    documents: dict[str, str], requests: dict[str, str], labels: list[tuple[str, str, str]]
) -> None:
    shared = {requests[q]: words for q, d, _ in labels if (words := _shared(requests[q], documents[d]))}
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
    others = _stems(document)
    return {stem for stem in _stems(request) for other in others if stem == other or _begins_the_same(stem, other)}


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
