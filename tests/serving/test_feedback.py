import hashlib
import hmac
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import numpy as np
import pytest
from serving.conftest import process, running, wait_for_all

from rabtriever.cli import main
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import InputError, StorageError, TextError
from rabtriever.index import Index
from rabtriever.index.feedback import FeedbackStore
from rabtriever.serving.config import ServerConfig, ServerLimits
from rabtriever.serving.feedback_mode import FeedbackMode

KEY = "feedback-key-0123456789"
EVENT = {"query": "it is dark", "id": "lamp", "shown": ["music", "lamp"], "succeeded": False}


@pytest.fixture
def taking(index):
    """A server that keeps texts."""
    with running(index, feedback="texts") as server:
        yield server


def stored(live):
    return FeedbackStore(live.index.table.uri).read()


def test_what_is_answered_is_on_disk(taking):
    before = time.time()
    answer = taking.post("/v1/feedback", **EVENT)
    assert answer.status_code == 200 and answer.json() == {"stored": 1}
    (event,) = stored(taking)
    assert (event.query, event.id, event.shown, event.succeeded) == ("it is dark", "lamp", ("music", "lamp"), False)
    assert event.digest is None and before <= event.time <= time.time()
    expected = taking.index.retriever.encoder.encode_queries(["it is dark"])[0].astype(np.float16)
    np.testing.assert_allclose(event.state.astype(float), expected.astype(float), atol=0.01)
    assert event.state.dtype == np.float16
    assert taking.post("/v1/search", query="lamp").status_code == 200


def test_several_come_in_one_transaction(taking):
    events = [{"query": f"song {i}", "id": None, "shown": ["music"]} for i in range(999)] + [{**EVENT, "shown": []}]
    versions = len(taking.index.versions())
    assert taking.post("/v1/feedback", events=events).json() == {"stored": 1000}
    found = stored(taking)
    assert [event.query for event in found] == [event["query"] for event in events]
    assert found[0].id is None and found[0].succeeded and found[-1].shown == ()
    assert len(taking.index.versions()) == versions and len(taking.index) == 4
    table = FeedbackStore(taking.index.table.uri)._open()
    assert table.version == 2  # of an empty table, and with the events


def test_digests_hold_no_text(index, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_FEEDBACK_KEY", KEY)
    with running(index, feedback="digests") as live:
        assert live.post("/v1/feedback", events=[EVENT, {**EVENT, "query": "a sóng"}]).status_code == 200
        first, second = stored(live)
    assert first.query is None and second.query is None
    assert first.digest == hmac.new(KEY.encode(), b"it is dark", hashlib.sha256).hexdigest()
    assert second.digest == hmac.new(KEY.encode(), "a sóng".encode(), hashlib.sha256).hexdigest()
    assert first.state.shape == (index.retriever.encoder.hidden_size,) and (first.state != second.state).any()
    for folder, _, names in os.walk(f"{index.table.uri}/feedback.lance"):
        for name in names:
            with open(f"{folder}/{name}", "rb") as file:
                assert b"it is dark" not in file.read()


def test_it_is_off_unless_switched_on(standing):
    answer = standing.post("/v1/feedback", **EVENT)
    assert answer.status_code == 404 and "--feedback texts" in answer.json()["message"]
    assert FeedbackStore(standing.index.table.uri).read() == []


@pytest.mark.parametrize("key", [None, "", "x" * 15])
def test_digests_need_a_key(index, monkeypatch, capsys, key):
    environment = {} if key is None else {"RABTRIEVER_FEEDBACK_KEY": key}
    with pytest.raises(InputError, match=r"--feedback digests: \$RABTRIEVER_FEEDBACK_KEY (is not set|has 15 char)"):
        FeedbackMode("digests", environment)
    assert FeedbackMode("texts", environment).on and not FeedbackMode("off", environment).on
    monkeypatch.delenv("RABTRIEVER_FEEDBACK_KEY", raising=False)
    assert main(["serve", index.table.uri, "--feedback", "digests"]) == 2
    error = capsys.readouterr().err
    assert "RABTRIEVER_FEEDBACK_KEY is not set; set it to 16 or more" in error and error.count("\n") == 1
    with pytest.raises(InputError, match="--feedback magic: choose one of off, texts, digests"):
        FeedbackMode("magic", environment)


def test_a_worker_process_gets_the_mode():
    config = ServerConfig(uri="index", feedback="digests")
    assert ServerConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": " ", "id": "lamp"}, "query"),
        ({"query": 3, "id": "lamp"}, "query"),
        ({"query": "a"}, "body"),
        ({"query": "a", "id": None, "shown": []}, "body"),
        ({"query": "a", "id": ""}, "id"),
        ({"query": "a", "id": 7}, "id"),
        ({"query": "a", "shown": "lamp"}, "shown"),
        ({"query": "a", "shown": ["lamp", None]}, "shown.1"),
        ({"query": "a", "shown": ["lamp"] * 1001}, "shown"),
        ({"query": "a", "id": "lamp", "succeeded": "yes"}, "succeeded"),
        ({"query": "a", "id": "lamp", "time": 3}, "time"),
        ({"query": "a", "id": "lamp", "events": [EVENT]}, "query"),
        ({"events": []}, "events"),
        ({"events": [EVENT] * 1001}, "events"),
        ({"events": [EVENT, {"query": "a"}]}, "events.1"),
        ({"events": [EVENT, {"query": "", "id": "lamp"}]}, "events.1.query"),
        ({"query": "a", "id": "nothing"}, "id"),
        ({"query": "a", "id": "lamp", "shown": ["lamp", "it's nothing"]}, "shown"),
        ({"events": [EVENT, {"query": "a", "id": "nothing"}]}, "id"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_stored(taking, body, param):
    answer = taking.post("/v1/feedback", **body)
    assert answer.status_code == 422 and answer.json()["error"]["param"] == param, answer.text
    assert stored(taking) == []
    if "nothing" in str(body):
        assert "nothing" in answer.json()["message"] and "no document" in answer.json()["message"]


def test_other_bodies_are_refused(taking):
    assert taking.http.post("/v1/feedback", json=[EVENT]).status_code == 422
    assert taking.http.post("/v1/feedback", content=b"x", headers={"content-type": "text/plain"}).status_code == 415


def test_keys_and_sizes_are_as_of_searches(index, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("read read-key-0123456789\n")
    with running(index, keys=str(keys), feedback="texts", limits=ServerLimits(body_mb=1)) as live:
        assert live.post("/v1/feedback", **EVENT).status_code == 401
        key = {"Authorization": "Bearer read-key-0123456789"}
        assert live.http.post("/v1/feedback", json=EVENT, headers=key).status_code == 200
        large = {**EVENT, "query": "a" * 2**20}
        assert live.http.post("/v1/feedback", json=large, headers=key).status_code == 413
        text = live.http.get("/metrics", headers=key).text
    assert 'rabtriever_requests_total{method="POST",route="/v1/feedback",status="200"} 1.0' in text
    assert 'rabtriever_stage_seconds_count{stage="feedback"} 1.0' in text
    assert 'rabtriever_queue{kind="feedback"} 0.0' in text


def test_it_is_documented(standing):
    document = standing.http.get("/openapi.json").json()
    operation = document["paths"]["/v1/feedback"]["post"]
    assert {"200", "404", "422", "507"} <= set(operation["responses"])
    assert {"Feedback", "FeedbackBatch"} <= set(document["components"]["schemas"])


def test_what_comes_during_a_commit_is_the_next_one(taking, monkeypatch):
    gate, groups, append = threading.Event(), [], FeedbackStore.append

    def slow(self, events):
        groups.append([event.query for event in events])
        assert gate.wait(20)
        append(self, events)

    monkeypatch.setattr(FeedbackStore, "append", slow)
    with ThreadPoolExecutor(11) as pool:
        first = pool.submit(taking.post, "/v1/feedback", **EVENT)
        while not groups:
            time.sleep(0.01)
        others = [pool.submit(taking.post, "/v1/feedback", query=f"song {i}", id="music") for i in range(9)]
        wrong = pool.submit(taking.post, "/v1/feedback", query="song", id="nothing")
        time.sleep(0.5)
        assert len(groups) == 1 and not first.done()
        assert taking.post("/v1/search", query="lamp").status_code == 200  # no search waits for it
        gate.set()
        assert {answer.result().status_code for answer in (first, *others)} == {200}
        assert wrong.result().status_code == 422  # the others of its group do not mind
    assert [len(group) for group in groups] == [1, 9] and len(stored(taking)) == 10


def test_a_text_without_an_embedding_is_the_fault_of_its_request(taking, monkeypatch):
    encode, gate = LLMEncoder.encode_queries, threading.Event()

    def picky(self, texts, *args):
        gate.wait(20)
        if "bad" in texts:
            raise TextError("query", list(texts).index("bad"), "bad", "has no tokens; give it a non-blank text")
        return encode(self, texts, *args)

    monkeypatch.setattr(LLMEncoder, "encode_queries", picky)
    bodies = [EVENT] * 3 + [{"events": [EVENT, {**EVENT, "query": "bad"}]}] + [EVENT] * 3
    with ThreadPoolExecutor(7) as pool:
        answers = [pool.submit(taking.http.post, "/v1/feedback", json=body) for body in bodies]
        time.sleep(0.3)
        gate.set()
        found = [answer.result() for answer in answers]
    assert [answer.status_code for answer in found] == [200] * 3 + [422] + [200] * 3
    assert found[3].json()["message"] == "query 1: 'bad' has no tokens; give it a non-blank text"
    assert len(stored(taking)) == 6


def test_a_full_disk_is_told_and_later_feedback_is_taken(taking, monkeypatch):
    def full(self, events):
        raise StorageError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(FeedbackStore, "append", full)
        assert taking.post("/v1/feedback", **EVENT).status_code == 507
    assert taking.post("/v1/feedback", **EVENT).status_code == 200 and len(stored(taking)) == 1


def test_too_many_are_told_to_wait(index, monkeypatch):
    gate, append = threading.Event(), FeedbackStore.append
    monkeypatch.setattr(FeedbackStore, "append", lambda self, events: gate.wait(20) and append(self, events))
    with running(index, feedback="texts", limits=ServerLimits(searches=2)) as live, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(live.post, "/v1/feedback", **EVENT) for _ in range(4)]
        time.sleep(0.5)
        gate.set()
        assert sorted(answer.result().status_code for answer in answers) == [200, 200, 429, 429]
        assert len(stored(live)) == 2


@pytest.mark.skipif(not os.path.exists("/proc"), reason="reads /proc")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_acknowledged_feedback_survives_a_kill(served, workers):
    """1,000 requests of 16 clients; the server is killed with SIGKILL when 500 are answered."""
    acknowledged, statuses = [], []

    def send(i):
        body = {"query": f"song {i}", "id": "music", "shown": ["lamp", "music"]}
        try:
            status = http.post("/v1/feedback", json=body).status_code
        except httpx.TransportError:
            return
        statuses.append(status)
        if status == 200:
            acknowledged.append(i)
        if len(acknowledged) == 500:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    with process(served, "--feedback", "texts", "--workers", workers) as (server, http), ThreadPoolExecutor(16) as pool:
        wait_for_all(http)
        children = open(f"/proc/{server.pid}/task/{server.pid}/children").read().split() if workers == "2" else []
        pids = [server.pid, *map(int, children)]
        started = time.monotonic()
        list(pool.map(send, range(1000)))
        seconds = time.monotonic() - started
    events = FeedbackStore(served / "index").read()
    numbers = {int(event.query.split()[1]) for event in events}
    versions = FeedbackStore(served / "index")._open().version
    print(f"acknowledged {len(acknowledged)}, stored {len(events)}, versions {versions}, {seconds:.1f} s")
    assert set(statuses) == {200} and 500 <= len(acknowledged) < 1000
    assert set(acknowledged) <= numbers and len(numbers) == len(events)
    assert all(event.state is not None and event.shown == ("lamp", "music") for event in events)
    assert versions < len(events) / 2  # requests were stored in groups
    FeedbackStore(served / "index").append(events[:1])
    assert len(Index.open(served / "index")) == 4
