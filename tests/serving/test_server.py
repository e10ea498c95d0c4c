"""The command itself, as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from serving.conftest import READ, WRITE, process, wait_for_all

from rabtriever.cli import main


def test_what_was_acknowledged_survives_a_kill(served):
    acknowledged = []

    def write(i):
        document = {"id": f"new/{i}", "text": f"music {i}", "metadata": {"n": i}}
        try:
            if http.post("/v1/documents", json={"documents": [document]}).status_code == 200:
                acknowledged.append(i)
        except httpx.TransportError:
            return
        if len(acknowledged) == 15:
            running.kill()

    with process(served) as (running, http), ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(60)))
    assert 15 <= len(acknowledged) < 60
    with process(served) as (running, http):
        for i in range(60):
            found = http.get(f"/v1/documents/new/{i}")
            assert found.status_code == 200 or i not in acknowledged
            assert found.status_code == 404 or (found.json()["text"], found.json()["metadata"]) == (
                f"music {i}",
                {"n": i},
            )
        assert http.post("/v1/documents", json={"documents": [{"id": "more", "text": "rain"}]}).status_code == 200
        assert len(http.post("/v1/search", json={"query": "music", "k": 5}).json()["hits"]) == 5
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.skipif(not os.path.exists("/proc"), reason="reads /proc")
def test_several_processes_answer_as_one(served):
    with process(served, "--workers", "2") as (running, http):
        wait_for_all(http)
        children = open(f"/proc/{running.pid}/task/{running.pid}/children").read().split()
        mapped = [child for child in children if "latents.npy" in open(f"/proc/{child}/maps").read()]
        assert len(mapped) == 2  # both read the same files
        answers, old = set(), {"query": "lamp", "where": "id <> 'new'"}
        for i in range(12):
            with httpx.Client(base_url=http.base_url, timeout=60) as other:  # a connection of its own each time
                document = {"id": "new", "text": f"music {i}"}
                assert other.post("/v1/documents", json={"documents": [document]}).status_code == 200
            with httpx.Client(base_url=http.base_url, timeout=60) as other:
                hits = other.post("/v1/search", json={"query": "music", "where": "id = 'new'"}).json()["hits"]
                assert [hit["text"] for hit in hits] == [f"music {i}"]
                answers.add(http.post("/v1/search", json=old).text.split(',"timings"')[0])
        assert len(answers) == 1
        text = http.get("/metrics").text
        assert 'rabtriever_requests_total{method="POST",route="/v1/documents",status="200"} 12.0' in text


def test_workers_that_cannot_start_end_it(served):
    (served / "model" / "predictor.safetensors").write_bytes(b"broken")
    command = [sys.executable, "-m", "rabtriever.cli", "serve", "index", "--model", "model", "--port", "0"]
    for workers in ("1", "2"):
        done = subprocess.run([*command, "--workers", workers], cwd=served, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and "model: a broken retriever" in done.stderr.splitlines()[-1]


def test_keys_may_come_from_the_environment(served):
    with process(served, "--host", "0.0.0.0", RABTRIEVER_READ_KEYS=READ, RABTRIEVER_WRITE_KEYS=WRITE) as (_, http):
        assert http.get("/info").status_code == 401
        assert http.get("/info", headers={"Authorization": f"Bearer {READ}"}).status_code == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "nowhere: no such index"),
        (["index", "--model", "nowhere"], "nowhere: no model there"),
        (["index", "--host", "0.0.0.0"], "--host: reaches beyond this machine; give API keys"),
        (["index", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: no such host"),
        (["index", "--host", "192.0.2.1", "--insecure"], "cannot listen there"),
        (["index", "--port", "{taken}"], "cannot listen there"),
        (["index", "--port", "99999999"], "--port 99999999: a port is"),
        (["index", "--keys", "nowhere"], "nowhere: keys cannot be read"),
        (["index", "--workers", "0"], "--workers 0"),
        (["index", "--timeout", "0"], "--timeout 0.0: give a number above 0"),
        (["index", "--searches", "-1"], "--searches -1"),
        (["index", "--cors", "*"], "--cors *: any web page"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(served, monkeypatch, capsys, options, message):
    monkeypatch.chdir(served)
    monkeypatch.setattr("uvicorn.Server.run", lambda self, **options: pytest.fail("it serves"))
    monkeypatch.delenv("RABTRIEVER_READ_KEYS", raising=False)
    if "--model" not in options:
        options = [*options, "--model", "model"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", *(option.format(taken=port) for option in options)]) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and not output.out


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_connects_when_the_address_is_printed_is_not_refused(served, workers):
    command = [sys.executable, "-m", "rabtriever.cli", "serve", "index", "--model", "model", "--port", "0", "--json"]
    with subprocess.Popen([*command, "--workers", workers], cwd=served, stdout=subprocess.PIPE, text=True) as running:
        try:
            url = json.loads(running.stdout.readline())["url"]
            assert httpx.get(f"{url}/health", timeout=120).status_code == 200
        finally:
            running.terminate()
            running.wait(60)
