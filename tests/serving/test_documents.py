import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving.conftest import running

from rabtriever.index import Index
from rabtriever.serving import service
from rabtriever.serving.config import ServerLimits
from rabtriever.serving.routes import native as module

NEW = {
    "id": "a/b 'c'?",
    "text": "show rain in the city",
    "title": "Rain",
    "metadata": {"n": 1, "deep": {"x": [None, "é"]}},
}


def test_added_documents_are_found_got_and_removed(live):
    answer = live.post("/v1/documents", documents=[NEW])
    assert answer.status_code == 200 and answer.json() == {"written": 1, "documents": 5}
    assert NEW["id"] in [hit["id"] for hit in live.post("/v1/search", query="rain").json()["hits"]]
    path = "/v1/documents/a%2Fb%20'c'%3F"
    assert live.http.get(path).json() == NEW
    assert live.http.delete(path).status_code == 204
    assert live.http.get(path).status_code == 404 and live.http.delete(path).status_code == 404
    assert NEW["id"] not in [hit["id"] for hit in live.post("/v1/search", query="rain").json()["hits"]]
    assert live.http.get("/v1/documents/it's/bread").json()["title"] == "Cook"


def test_upsert_replaces_and_add_refuses_what_is_there(live):
    assert live.post("/v1/documents", documents=[{"id": "lamp", "text": "play music"}]).json()["documents"] == 4
    assert live.http.get("/v1/documents/lamp").json()["text"] == "play music"
    answer = live.post("/v1/documents", documents=[NEW, {"id": "lamp", "text": "x"}], upsert=False)
    assert answer.status_code == 409 and "'lamp'" in answer.json()["message"]
    assert live.http.get("/v1/documents/a%2Fb").status_code == 404  # all or none


def test_what_another_process_writes_is_found(live, retriever):
    other = Index.open(live.index.table.uri, retriever)
    other.delete(["lamp"])
    assert "lamp" not in [hit["id"] for hit in live.post("/v1/search", query="lamp").json()["hits"]]


def upload(live, lines, path="/v1/documents"):
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    return live.http.post(path, content=text.encode(), headers={"content-type": "application/x-ndjson"})


def test_an_upload_is_there_whole_or_not_at_all(live):
    lines = [{"id": f"new{i}", "text": f"music {i}"} for i in range(600)]
    assert upload(live, [*lines, "\n"]).json() == {"written": 600, "documents": 604}
    assert live.http.get("/v1/documents/new599").json()["text"] == "music 599"
    for bad, message in [
        ("{\n", "line 601: body"),
        ({"id": "x"}, "line 601"),
        ({"id": "x", "text": 3}, "line 601: text"),
        (lines[0], "line 601"),
    ]:
        answer = upload(live, [*[{**line, "text": "other"} for line in lines], bad])
        assert answer.status_code == 422 and answer.json()["message"].startswith(message)
    answer = upload(live, [lines[0], "\n", lines[1], lines[0]])
    assert answer.json()["message"] == "line 4: its id came before"  # blank lines count
    assert upload(live, []).status_code == 422
    assert upload(live, lines[:1], "/v1/documents?upsert=false").status_code == 409
    assert upload(live, [{"_id": "beir", "text": "rain"}], "/v1/documents?upsert=false").json()["written"] == 1
    assert live.http.get("/v1/documents/new0").json()["text"] == "music 0"


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({}, "documents.0.id"),
        ({"id": ""}, "documents.0.id"),
        ({"id": "x"}, "documents.0"),
        ({"id": "x", "text": " ", "title": ""}, "documents.0"),
        ({"id": "x", "text": "\u00a0\n"}, "documents.0"),
        ({"id": "x", "text": "a", "metadata": []}, "documents.0.metadata"),
        ({"id": "x", "text": "a", "metadata": {"n": 2**60}}, "documents.0.metadata"),
        ({"id": "x", "text": "a", "metadata": {"n": float("nan")}}, "documents.0.metadata"),
        ({"id": "x", "text": "a", "metadata": {"n": "\ud800"}}, "body"),
        ({"id": "x", "text": "a", "metadata": {"n": json.loads("[" * 17 + "]" * 17)}}, "documents.0.metadata"),
        ({"id": "x", "text": None, "title": None}, "documents.0"),
        ({"id": ".", "text": "a"}, "documents.0.id"),  # a URL cannot name it
        ({"id": "..", "text": "a"}, "documents.0.id"),
        ({"id": "x", "text": "a", "vector": [1]}, "documents.0.vector"),
    ],
)
def test_a_wrong_field_is_named(standing, document, param):
    body = json.dumps({"documents": [document]}).encode()
    answer = standing.http.post("/v1/documents", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == param


def test_many_faults_are_told_by_the_first(standing):
    for documents in ([0] * 500_000, [{"id": "a", "text": "b"}] * 2):
        started = time.monotonic()
        answer = standing.post("/v1/documents", documents=documents)
        assert answer.status_code == 422 and answer.json()["error"]["param"].startswith("documents")
        assert time.monotonic() - started < 5


def test_a_line_is_bounded(live, monkeypatch):
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 50)
    answer = upload(live, [{"id": "new", "text": "x" * 60}])
    assert answer.status_code == 422 and answer.json()["message"].startswith("line 1: longer")


def test_a_write_that_has_begun_is_done(index, monkeypatch):
    original = Index.upsert
    monkeypatch.setattr(Index, "upsert", lambda *args: time.sleep(0.6) or original(*args))
    with running(index, limits=ServerLimits(timeout=0.3)) as live:
        with ThreadPoolExecutor() as pool:
            new = [[{"id": f"new{i}", "text": "rain"}] for i in "ab"]
            found = list(pool.map(lambda documents: live.post("/v1/documents", documents=documents), new))
            assert sorted(answer.status_code for answer in found) == [200, 504]  # the other had not begun
        done = next(i for i, answer in zip("ab", found, strict=True) if answer.status_code == 200)
        for i in "ab":
            assert live.http.get(f"/v1/documents/new{i}").status_code == (200 if i == done else 404)
        assert f"new{done}" in [hit["id"] for hit in live.post("/v1/search", query="rain").json()["hits"]]


def test_a_change_is_answered_although_the_next_search_could_not_be_prepared(live, monkeypatch):
    def broken(self):
        raise OSError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(Index, "warm", broken)
        assert live.post("/v1/documents", documents=[{"id": "new", "text": "rain"}]).status_code == 200
    assert live.http.get("/v1/documents/new").status_code == 200


def test_the_index_is_tidied_after_some_changes(index, monkeypatch):
    monkeypatch.setattr(service, "WRITES_BEFORE_OPTIMIZE", 5)
    with running(index) as live:
        for i in range(6):
            live.post("/v1/documents", documents=[{"id": f"new{i}", "text": "rain"}])
        until = time.monotonic() + 5
        while live.index.table.table.stats()["fragment_stats"]["num_fragments"] > 3:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_another_content_type_is_refused(standing):
    assert standing.http.post("/v1/documents", content=b"x", headers={"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("identifier", ["..%2F..%2Fetc%2Fpasswd", "%00", "a' OR '1'='1", "%F0%9F%92%A9", "x" * 1001])
def test_ids_are_data(standing, identifier):
    assert standing.http.get(f"/v1/documents/{identifier}").status_code in (404, 422)
    assert standing.http.delete(f"/v1/documents/{identifier}").status_code in (404, 422)
    assert len(standing.index) == 4


def test_an_upload_takes_what_the_command_line_takes(live):
    row = {"_id": "new", "title": None, "text": "Sharpens knives.", "metadata": None}
    body = "\ufeff" + json.dumps(row) + "\r\n"
    assert upload(live, [body]).json() == {"written": 1, "documents": 5}
    expected = {"id": "new", "text": "Sharpens knives.", "title": "", "metadata": {}}
    assert live.http.get("/v1/documents/new").json() == expected
    content = "\ufeff" + json.dumps({"documents": [{**row, "_id": "more", "text": None, "title": "A title"}]})
    answer = live.http.post("/v1/documents", content=content.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 200 and live.http.get("/v1/documents/more").json()["title"] == "A title"
    assert upload(live, ["\ufeff\n", {"id": "x"}]).json()["message"].startswith("line 2: ")


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 3000 + "]" * 3000, "1e999"], ids=["long", "deep", "large"])
def test_numbers_too_long_and_values_too_deep_are_told(standing, value):
    document = f'{{"id": "x", "text": "a", "metadata": {{"n": {value}}}}}'
    bodies = {"application/json": f'{{"documents": [{document}]}}', "application/x-ndjson": document}
    for kind, body in bodies.items():
        answer = standing.http.post("/v1/documents", content=body, headers={"content-type": kind})
        assert answer.status_code == 422 and len(answer.text) < 1000, answer.text
    assert len(standing.index) == 4
