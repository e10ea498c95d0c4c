import threading
import time
from email.utils import formatdate

import numpy as np
import pytest
from stub_teacher import DOCUMENTS, QUERIES

from rabtriever.errors import RemoteError
from rabtriever.rerankers.remote import transport
from rabtriever.rerankers.remote.reranker import RemoteReranker

ONE = np.array([[0, 0]])
BUSY = (429, {"Retry-After": "0"}, {"error": "slow down"})


def score(reranker):
    return reranker.score(QUERIES, DOCUMENTS, ONE)


@pytest.mark.parametrize("reply", [BUSY, (503, {}, b""), (500, {}, b"<html>"), (0, {}, b"")])
def test_a_server_that_fails_is_asked_again(reply, stub, tei):
    stub.replies = [reply] * 3
    score(tei)
    assert tei.calls == len(stub.requests) == 4


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_nobody_asks_before_the_time_a_server_says(form, stub):
    wait = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    stub.replies = [(429, {"Retry-After": wait}, b"")]
    reranker = RemoteReranker.from_source(stub.source("chat"), concurrency=1)
    began = time.monotonic()
    reranker.score(QUERIES, DOCUMENTS, np.array([[0, 0], [0, 1]]))
    assert 0.9 <= time.monotonic() - began < 10 and reranker.calls == 3


def test_a_server_that_asks_for_an_hour_is_an_error(stub, tei):
    stub.replies = [(429, {"Retry-After": "3600"}, {"error": {"message": "quota"}})]
    with pytest.raises(RemoteError, match=r"HTTP 429 \(quota\), and asks to wait 3600 s; run again then"):
        score(tei)
    assert tei.calls == 1


def test_a_server_that_stays_busy_is_an_error_after_all_attempts(stub, tei, monkeypatch):
    monkeypatch.setattr(transport, "MAX_ATTEMPTS", 3)
    stub.replies = [BUSY] * 9
    with pytest.raises(RemoteError, match=r"HTTP 429 \(slow down\), 3 times; answers so far are cached"):
        score(tei)
    assert tei.calls == 3


def test_waits_grow_and_differ(stub, tei, monkeypatch):
    monkeypatch.setattr(transport, "FIRST_WAIT", 0.01)
    waits, wait = [], threading.Event.wait
    monkeypatch.setattr(
        threading.Event, "wait", lambda self, timeout=None: waits.append(timeout) if timeout else wait(self, timeout)
    )
    stub.replies = [(500, {}, b"")] * 6
    score(tei)
    assert len(waits) == 6 and all(0.005 * 2**i <= waited <= 0.015 * 2**i for i, waited in enumerate(waits))


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (400, {"message": "query is too long"}, r"HTTP 400 \(query is too long\); the server refuses the request"),
        (401, {"detail": "who?"}, r"HTTP 401 \(who\?\); set the API key in \$RABTRIEVER_TEACHER_KEY"),
        (404, {"error": {"message": "no model\n'tiny'"}}, r"HTTP 404 \(no model 'tiny'\); check the URL and the model"),
        (413, b"", "HTTP 413; lower documents_per_request"),
        (422, {"error": "batch size 3 > 2"}, r"HTTP 422 \(batch size 3 > 2\); check the protocol"),
        (307, {}, "HTTP 307"),
    ],
)
def test_a_refusal_is_one_line_with_the_servers_words_and_costs_nothing(status, answer, message, stub):
    reranker = RemoteReranker.from_source(stub.source("tei"), price_per_1000_requests=1.0)
    stub.replies = [(status, {"Location": "http://example.com"}, answer)]
    with pytest.raises(RemoteError, match=message) as raised:
        score(reranker)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{stub.source('tei')}: HTTP")
    assert (reranker.calls, reranker.cost) == (1, 0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>welcome</html>", "the answer is no JSON; check the URL"),
        (b"\xff", "the answer is no JSON"),
        (b"[" * 100_000, "the answer is no JSON"),
        (b'[{"index": 0, "score": 1' + b"0" * 400 + b"}]", "another shape"),
        (b'[{"index": 0, "score": NaN}]', "another shape"),
        ([], "another shape"),
        ({"results": []}, "another shape"),
    ],
)
def test_another_answer_is_one_line_and_not_cached(answer, message, stub, tei):
    stub.replies = [(200, {}, answer)]
    with pytest.raises(RemoteError, match=message):
        score(tei)
    score(tei)
    assert len(stub.requests) == 2


def test_a_slow_server_is_asked_again_and_its_silence_counted_as_paid(stub, monkeypatch):
    monkeypatch.setattr(transport, "MAX_ATTEMPTS", 2)
    stub.delay = 1.0
    reranker = RemoteReranker.from_source(stub.source("tei"), timeout=0.3, price_per_1000_requests=1000.0)
    with pytest.raises(RemoteError, match="no answer within 0.3 s, 2 times"):
        score(reranker)
    assert reranker.cost == reranker.calls == 2
    stub.delay = 0
    score(reranker)


def test_an_answer_that_trickles_is_timed_out(stub, monkeypatch):
    monkeypatch.setattr(transport, "MAX_ATTEMPTS", 1)
    handler = stub.server.RequestHandlerClass

    def trickle(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.02)

    monkeypatch.setattr(handler, "do_POST", trickle)
    began = time.monotonic()
    with pytest.raises(RemoteError, match="no answer within 0.1 s"):
        score(RemoteReranker.from_source(stub.source("tei"), timeout=0.1))
    assert time.monotonic() - began < 1.5


def test_an_answer_without_end_is_an_error(stub, tei, monkeypatch):
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 1 << 20)
    stub.replies = [(200, {}, b" " * ((1 << 20) + 1))]
    with pytest.raises(RemoteError, match="an answer of more than 1 MiB"):
        score(tei)


def test_a_server_that_is_gone_is_one_line_and_costs_nothing(stub, monkeypatch):
    monkeypatch.setattr(transport, "MAX_ATTEMPTS", 2)
    source = "tei+http://127.0.0.1:9/rerank"
    reranker = RemoteReranker.from_source(source, price_per_1000_requests=1.0)
    with pytest.raises(
        RemoteError, match=r"tei[+]http://127.0.0.1:9/rerank: cannot be reached .*, 2 times; answers so far"
    ):
        score(reranker)
    assert (reranker.calls, reranker.cost) == (2, 0)


def test_the_rate_limit_spreads_requests(stub):
    reranker = RemoteReranker.from_source(stub.source("chat"), requests_per_minute=60 / 0.1)
    began = time.monotonic()
    reranker.score(QUERIES, DOCUMENTS, np.array([[q, d] for q in range(2) for d in range(3)]))
    assert 0.5 <= time.monotonic() - began < 10


def test_no_proxy_stands_before_this_machine(stub, tei, monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    score(tei)
