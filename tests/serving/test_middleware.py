import json
import logging
import socket
import threading
import time

import httpx
import pytest
from serving.conftest import running

from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.serving.config import ServerLimits
from rabtriever.serving.service import SearchService

QUERY = {"query": "lamp"}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_keys_and_their_roles(live_with_keys):
    live = live_with_keys
    new = {"documents": [{"id": "new", "text": "rain"}]}
    for headers in ({}, bearer("wrong-key-0123456789"), {"Authorization": live.read_key}):
        answer = live.http.post("/v1/search", json=QUERY, headers=headers)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
        for path in ("/info", "/metrics", "/v1/documents/lamp"):
            assert live.http.get(path, headers=headers).status_code == 401
    for path in ("/", "/health", "/ready", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"):
        assert live.http.get(path).status_code == 200
    read, write = bearer(live.read_key), bearer(live.write_key)
    for headers in (read, write):
        assert live.http.post("/v1/search", json=QUERY, headers=headers).status_code == 200
        assert live.http.get("/v1/documents/lamp", headers=headers).status_code == 200
    assert live.http.post("/v1/documents", json=new, headers=read).status_code == 403
    assert live.http.delete("/v1/documents/lamp", headers=read).status_code == 403
    assert live.http.post("/v1/documents", json=new, headers=write).status_code == 200
    assert live.http.delete("/v1/documents/lamp", headers=write).status_code == 204


def test_without_keys_only_this_machines_names_are_served(standing):
    for host in ("localhost", "127.0.0.1:80", "[::1]:80", "LOCALHOST:1"):
        assert standing.http.get("/info", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", "10.0.0.1"):
        assert standing.http.get("/info", headers={"Host": host}).status_code == 421


def test_other_origins_are_not_let_in_unless_named(live, index):
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in live.http.options("/v1/search", headers=ask).headers
    with running(index, cors=("https://a.example",)) as named:
        assert named.http.options("/v1/search", headers=ask).headers["access-control-allow-origin"] == ask["Origin"]
        other = named.http.options("/v1/search", headers={**ask, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_open_paths_take_no_body(live_with_keys):
    for path in ("/health", "/", "/page/page.css", "/docs"):
        assert live_with_keys.http.post(path, content=b"x").status_code == 413


def test_a_request_must_come_in_time(index):
    with running(index, limits=ServerLimits(timeout=0.5)) as live:
        address = ("127.0.0.1", int(live.url.rsplit(":", 1)[1]))
        with socket.create_connection(address, timeout=5) as client:
            client.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
            for _ in range(4):
                time.sleep(0.2)
                client.sendall(b" ")
            assert client.recv(100).startswith(b"HTTP/1.1 408")
        with socket.create_connection(address, timeout=5) as client:
            client.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000)
            assert b"400" in client.recv(100)


def chunks(megabytes):
    yield from (b" " * 2**20 for _ in range(megabytes))


def test_large_bodies_are_refused(index):
    with running(index, limits=ServerLimits(body_mb=1, upload_mb=3)) as live:
        kinds = {"content-type": "application/json"}, {"content-type": "application/x-ndjson"}
        for path, kind, megabytes, status in [
            ("/v1/search", kinds[0], 2, 413),
            ("/v1/search", kinds[1], 2, 413),  # uploads go to /v1/documents alone
            ("/v1/documents", kinds[0], 2, 413),
            ("/v1/documents", kinds[1], 4, 413),
            ("/v1/documents", kinds[1], 2, 422),
        ]:
            declared = live.http.post(path, content=b" " * 2**20 * megabytes, headers=kind)
            streamed = live.http.post(path, content=chunks(megabytes), headers=kind)
            assert declared.status_code == streamed.status_code == status
        assert live.http.post("/rerank", content=chunks(2), headers=kinds[0]).json()["error_type"] == "Validation"


@pytest.fixture
def slow(monkeypatch):
    """Each of the reranker's slices waits until it is let go."""
    gate, begun, original = threading.Event(), threading.Semaphore(0), GenerativeReranker.score

    def wait(self, *args):
        begun.release()
        gate.wait(10)
        return original(self, *args)

    gate.begun = begun
    monkeypatch.setattr(SearchService, "warm", lambda self: self.index.warm())
    monkeypatch.setattr(GenerativeReranker, "score", wait)
    yield gate
    gate.set()


def in_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def rerank(live, texts=("lamp",)):
    return live.post("/v1/rerank", model="reranker", query="lamp", documents=list(texts))


def test_a_slow_rerank_holds_up_no_search_and_too_many_are_told_to_come_again(index, slow):
    with running(index, limits=ServerLimits(reranks=1)) as live:
        thread, found = in_thread(lambda: rerank(live))
        assert slow.begun.acquire(timeout=5)
        assert live.post("/v1/search", **QUERY).status_code == 200
        refused = rerank(live)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        tei = live.post("/rerank", model="reranker", query="lamp", texts=["a"])
        assert tei.status_code == 429 and tei.json()["error_type"] == "Overloaded"
        slow.set()
        thread.join()
        assert found[0].status_code == 200 and rerank(live).status_code == 200
        assert (
            'rabtriever_requests_total{method="POST",route="/v1/rerank",status="429"} 1.0'
            in live.http.get("/metrics").text
        )


def test_what_takes_too_long_is_given_up(index, slow):
    with running(index, limits=ServerLimits(timeout=0.3)) as live:
        answer = rerank(live)
        assert answer.status_code == 504 and "0.3 s" in answer.json()["message"]
        slow.set()
        assert rerank(live).status_code == 200


def test_a_client_that_goes_away_frees_its_place(index, slow):
    texts = [f"{word} {i}" for i in range(30) for word in ("lamp light turn " * 6,)]
    with running(index, limits=ServerLimits(reranks=1)) as live:
        body = json.dumps({"model": "reranker", "query": "lamp", "documents": texts}).encode()
        with socket.create_connection(("127.0.0.1", int(live.url.rsplit(":", 1)[1]))) as client:
            head = f"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            head += "Content-Type: application/json\r\n\r\n"
            client.sendall(head.encode() + body)
            assert slow.begun.acquire(timeout=5)
        slow.set()
        until = time.monotonic() + 5
        while rerank(live).status_code != 200:
            assert time.monotonic() < until
        reads = 0
        while slow.begun.acquire(blocking=False):
            reads += 1
        assert reads < 10  # the rest of the thirty was never read
        assert 'status="499"' in live.http.get("/metrics").text


def test_who_leaves_after_the_answer_had_it(live):
    for _ in range(20):
        httpx.get(f"{live.url}/health")
    httpx.get(f"{live.url}/page/page.css")
    until = time.monotonic() + 5  # a request is counted after its answer
    while 'route="/page",status="200"} 1.0' not in (text := live.http.get("/metrics").text):
        assert time.monotonic() < until
    assert 'status="499"' not in text and 'route="/health",status="200"} 20.0' in text


def test_what_is_in_flight_is_finished_at_the_end(index, slow):
    with running(index) as live:
        body = {"model": "reranker", "query": "lamp", "documents": ["lamp"]}
        thread, found = in_thread(lambda: httpx.post(f"{live.url}/v1/rerank", json=body))
        assert slow.begun.acquire(timeout=5)
        threading.Timer(0.3, slow.set).start()
    thread.join()
    assert found[0].status_code == 200 and found[0].json()["results"]


def logged(caplog):
    return "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))


def test_a_fault_shows_neither_trace_nor_text(live, monkeypatch, caplog):
    def broken(*args):
        raise RuntimeError("the text was: my secret")

    monkeypatch.setattr("rabtriever.index.index.find", broken)
    with caplog.at_level(logging.INFO):
        answer = live.post("/v1/search", query="my secret")
        until = time.monotonic() + 5  # the log is written after the answer
        while "RuntimeError" not in logged(caplog):
            assert time.monotonic() < until
            time.sleep(0.01)
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text and "Traceback" not in answer.text
    assert "test_middleware" in logged(caplog) and "secret" not in logged(caplog)


def test_logs_tell_routes_and_not_texts(live, caplog):
    with caplog.at_level(logging.INFO):
        live.post("/v1/search", query="my secret", where="id = 'my secret'")
        live.http.get("/v1/documents/my%20secret?my=secret")
        live.http.get("/my/secret")
        live.post("/v1/search", query="my secret", k="my secret")
    assert "POST /v1/search 200" in logged(caplog) and "GET /v1/documents/{id:path} 404" in logged(caplog)
    assert "GET other 404" in logged(caplog) and "secret" not in logged(caplog)


def test_methods_and_paths_that_are_not_there(standing):
    answer = standing.http.put("/v1/search")
    assert answer.status_code == 405 and answer.headers["Allow"] == "POST" and answer.json()["message"]
    assert standing.http.get("/nowhere").status_code == 404
    assert standing.http.get("/page/../config.py").status_code == 404
    assert standing.http.get("/page/%2e%2e/config.py").status_code == 404
