import json
import random
from dataclasses import replace

import pytest

from rabtriever.data import Document, RetrievalData, held_out_queries, load_requests
from rabtriever.errors import InputError, NotFoundError


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "tools.jsonl"
    path.write_text('{"_id": "lamp", "text": "lights the room"}\n{"_id": "1", "text": "find my keys"}\n')
    return path


def write(tmp_path, *lines):
    path = tmp_path / "requests.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_requests_need_no_ids(corpus, tmp_path):
    data = load_requests(corpus, write(tmp_path, {"text": "find my keys"}, "", {"_id": "b", "text": "it is dark"}))
    assert data.name == "tools" and list(data.documents) == ["lamp", "1"] and not data.qrels
    assert data.queries == {"1": "find my keys", "b": "it is dark"}


def test_a_folder_holds_its_corpus(corpus, tmp_path):
    (tmp_path / "data").mkdir()
    corpus.rename(tmp_path / "data" / "corpus.jsonl")
    assert load_requests(tmp_path / "data", write(tmp_path, {"text": "rain"})).name == "data"


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([{"text": "rain"}, {"text": " "}], "line 2: the text of query '2' is blank"),
        ([{"text": "rain"}, "{"], "line 2: malformed JSON"),
        ([{"text": "rain"}, {"text": 3}], "line 2: text is 3"),
        ([{"_id": "a", "text": "rain"}, {"_id": "a", "text": "wind"}], "line 2: _id 'a' was used before"),
        ([{"_id": 7, "text": "rain"}], "line 1: _id is 7"),
        ([], "is empty"),
    ],
)
def test_errors_name_the_line(corpus, tmp_path, lines, fault):
    with pytest.raises(InputError, match=f"requests.jsonl.*{fault}"):
        load_requests(corpus, write(tmp_path, *lines))


def test_what_is_missing_is_named(corpus, tmp_path):
    with pytest.raises(NotFoundError, match="nowhere.jsonl is missing"):
        load_requests(corpus, tmp_path / "nowhere.jsonl")
    with pytest.raises(NotFoundError, match="nowhere"):
        load_requests(tmp_path / "nowhere", write(tmp_path, {"text": "rain"}))


def unlabelled(texts):
    return RetrievalData("d", {"x": Document("x", "y")}, {f"q{i}": text for i, text in enumerate(texts)}, {})


def test_held_out_queries_are_a_tenth_by_their_texts_in_whatever_order():
    texts = [f"request number {i}" for i in range(5000)]
    data = unlabelled(texts)
    held_out = {data.queries[query] for query in held_out_queries(data, data.queries)}
    assert len(held_out) == 300  # at most
    random.Random(0).shuffle(texts)
    shuffled = unlabelled(texts)
    assert {shuffled.queries[query] for query in held_out_queries(shuffled, shuffled.queries)} == held_out
    few = unlabelled(texts[:1000])
    found = held_out_queries(few, few.queries)
    assert 60 < len(found) < 140
    some = list(few.queries)[::2]
    assert held_out_queries(few, some) == found & set(some)  # whatever else there is


def test_a_text_is_held_out_whole_and_never_are_all():
    data = unlabelled([f"request {i // 2}" if i % 2 else f"  REQUEST {i // 2} " for i in range(200)])
    found = {int(query[1:]) // 2 for query in held_out_queries(data, data.queries)}
    assert held_out_queries(data, data.queries) == {f"q{2 * i + j}" for i in found for j in (0, 1)}
    assert held_out_queries(unlabelled(["rain"]), ["q0"]) == set()
    assert len(held_out_queries(unlabelled(["rain", "wind"]), ["q0", "q1"])) == 1
    assert held_out_queries(replace(data, queries={}), []) == set()
