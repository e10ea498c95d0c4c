"""Ray Serve: the application of ``rabtriever serve`` over shards, whose replicas are killed."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import yaml
from serving.conftest import running
from tiny import make_retriever

from rabtriever.cli import main
from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")

from ray.serve.schema import ServeDeploySchema  # noqa: E402

from rabtriever.cluster.segments import build_segments  # noqa: E402
from rabtriever.cluster.serve import Router, ShardedConfig, _listening, serve_shards  # noqa: E402
from rabtriever.serving.config import ServerConfig  # noqa: E402

DEPLOY = Path(__file__).parents[2] / "deploy" / "ray-serve.yaml"
WORDS = "weather rain wind city flight hotel recipe cook bread music song play light lamp turn sponge".split()
READ, WRITE = "read-key-0123456789", "write-key-0123456789"
SHARDS = 2


@pytest.fixture(scope="module")
def folder(reranker, tmp_path_factory):
    """An index with two documents of every text, and its model."""
    folder = tmp_path_factory.mktemp("sharded")
    retriever = make_retriever(reranker)
    retriever.save_pretrained(folder / "model")
    texts = [" ".join(WORDS[j] for j in (i % 16, i * 7 % 16, i * 3 % 11)) for i in range(200)]
    documents = [Document(f"d{i}", texts[i % 100], f"T{i % 3}", {"n": i % 5}) for i in range(200)]
    Index.build(folder / "index", retriever, documents)
    (folder / "keys").write_text(f"read {READ}\nwrite {WRITE}\n")
    return folder


@pytest.fixture(scope="module")
def cluster(folder):
    """A Ray cluster of its own, whose workers find this checkout."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=2, object_store_memory=100_000_000, **options)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def built(folder, cluster):
    """What tasks said of the segments that they made, and the rows of each of these by their folders."""
    return build_segments(str(folder / "index"), SHARDS), segment_rows(folder)


def segment_rows(folder):
    paths = (folder / "index" / "segments").glob(f"*-of-{SHARDS}/*/keys.npy")
    return {path.parent: len(np.load(path)) for path in paths}


@pytest.fixture(scope="module")
def http(folder, cluster, built):
    """A client of what deploy/ray-serve.yaml says, of the tiny index."""
    config = yaml.safe_load(DEPLOY.read_text())
    args = config["applications"][0]["args"]
    args |= {"uri": str(folder / "index"), "model": str(folder / "model"), "shards": SHARDS}
    args |= {"keys": str(folder / "keys"), "shard_options": {"num_cpus": 0}, "router_options": {"num_cpus": 0}}
    with socket.create_server(("127.0.0.1", 0)) as free:
        config["http_options"]["port"] = port = free.getsockname()[1]
    schema = ServeDeploySchema.model_validate(config)
    serve.start(proxy_location=schema.proxy_location, http_options=schema.http_options.model_dump())
    serve.context._get_global_client().deploy_apps(schema)
    wait_for(lambda: status().status == "RUNNING", 300)
    headers = {"Authorization": f"Bearer {WRITE}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=headers) as client:
        yield client
    serve.shutdown()


def status():
    return serve.status().applications["rabtriever"]


def replicas(deployment):
    """Names of the replicas that live."""
    found = ray.util.list_named_actors(all_namespaces=True)
    return [one["name"] for one in found if one["name"].startswith(f"SERVE_REPLICA::rabtriever#{deployment}#")]


def kill(name):
    ray.kill(ray.get_actor(name, namespace="serve"))


def wait_for(condition, seconds=180):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def wait_for_all(http):
    wait_for(lambda: all(states(name) == {"RUNNING": 2} for name in ("shard-0", "shard-1", "router")))
    wait_for(lambda: all(search(http).status_code == 200 for _ in range(20)))


def states(deployment):
    return {state: n for state, n in status().deployments[deployment].replica_states.items() if n}


def search(http, query="cook bread", **body):
    return http.post("/v1/search", json={"query": query, **body})


class Load:
    """Searches from several threads until it ends; each answer's status, query and body."""

    def __init__(self, http, threads=4):
        self.answers, self._stop, self._http = [], threading.Event(), http
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads

    def _run(self, number):
        with httpx.Client(base_url=self._http.base_url, timeout=60, headers=self._http.headers) as http:
            while not self._stop.is_set():
                try:
                    answer = search(http, WORDS[number], k=3)
                    self.answers.append((answer.status_code, WORDS[number], answer.text))
                except httpx.TransportError as error:
                    self.answers.append((0, WORDS[number], repr(error)))

    def __enter__(self):
        self._done = [self._pool.submit(self._run, number) for number in range(self._threads)]
        wait_for(lambda: len(self.answers) > 20)
        return self

    def __exit__(self, *error):
        self._stop.set()
        for done in self._done:
            done.result()

    @property
    def failed(self):
        return [answer for answer in self.answers if answer[0] != 200]


def without_times(answer):
    """An answer's body, but for what is never the same."""
    body = answer.json() if answer.content else {}
    return {name: value for name, value in body.items() if name not in ("timings", "id")}


def test_http_answers_are_those_of_one_process(http, folder, tmp_path):
    requests = [
        ("POST", "/v1/search", {"query": "cook bread", "k": 150}),
        ("POST", "/v1/search", {"queries": ["cook bread", "play music"], "k": 20, "rerank": 5}),
        ("POST", "/v1/search", {"query": "play music", "mode": "bm25", "k": 60}),
        ("POST", "/v1/search", {"query": "play music", "where": "json_get_int(metadata, 'n') = 3", "threshold": 0.2}),
        ("POST", "/v1/search", {"query": "play music", "history": ["rain"], "used": ["d7"]}),
        ("POST", "/v1/search", {"query": "play music", "where": "nothing = 1"}),
        ("POST", "/v1/search", {"query": "", "k": 0}),
        ("POST", "/v1/rerank", {"query": "cook", "documents": ["bread", "lamp"], "model": "reranker"}),
        ("POST", "/v1/embeddings", {"input": ["cook"], "model": "rabtriever-query"}),
        ("GET", "/v1/documents/d4", None),
        ("GET", "/v1/documents/nowhere", None),
        ("GET", "/ready", None),
        ("GET", "/info", None),
        ("POST", "/v1/documents", {"documents": [{"id": "a/b", "text": "sponge lamp"}, {"id": "d3", "text": "new"}]}),
        ("GET", "/v1/documents/d3", None),
        ("POST", "/v1/search", {"query": "sponge lamp", "k": 300}),
        ("POST", "/v1/search", {"query": "new", "mode": "bm25"}),
        ("POST", "/v1/documents", {"documents": [{"id": "a/b", "text": "x"}], "upsert": False}),
        ("DELETE", "/v1/documents/a/b", None),
        ("DELETE", "/v1/documents/a/b", None),
        ("POST", "/v1/search", {"query": "sponge lamp", "k": 300}),
        ("GET", "/info", None),
    ]

    def ask(client):
        for method, path, body in requests:
            answer = client.request(method, path, json=body)
            yield method, path, answer.status_code, without_times(answer)

    shutil.copytree(folder / "index", tmp_path / "index")
    retriever = Rabtriever.from_pretrained(folder / "model", document_cache=100)
    with running(Index.open(tmp_path / "index", retriever), keys=str(folder / "keys")) as one:
        one.http.headers = http.headers
        for got, wanted in zip(ask(http), ask(one.http), strict=True):
            assert got == wanted
    assert httpx.post(f"{http.base_url}/v1/search", json={"query": "x"}).status_code == 401
    reader = {"Authorization": f"Bearer {READ}"}
    assert httpx.delete(f"{http.base_url}/v1/documents/d3", headers=reader).status_code == 403


def test_a_change_is_found_through_every_router(http):
    for i in range(10):
        body = {"documents": [{"id": "new", "text": f"music {i}"}]}
        assert http.post("/v1/documents", json=body).status_code == 200
        for _ in range(3):
            hits = search(http, "music", where="id = 'new'").json()["hits"]
            assert [hit["text"] for hit in hits] == [f"music {i}"]
    assert http.delete("/v1/documents/new").status_code == 204


def test_shards_are_mounted_from_the_segments_that_tasks_made(folder, built, http):
    sizes, made = built
    assert len(made) == SHARDS and sum(made.values()) == sum(one["documents"] for one in sizes) == 200
    now = segment_rows(folder)
    assert made.items() <= now.items()
    assert all(rows < 30 for path, rows in now.items() if path not in made)  # of what the tests before added


def test_a_replica_of_each_shard_is_killed_under_load_and_no_search_fails(http):
    wait_for_all(http)
    expected = {word: search(http, word, k=3).json()["hits"] for word in WORDS[:4]}
    with Load(http) as load:
        for shard in ("shard-0", "shard-1"):
            before = len(load.answers)
            kill(replicas(shard)[0])
            wait_for(lambda before=before: len(load.answers) > before + 100)
        wait_for_all(http)
    assert not load.failed
    for _, word, text in load.answers:
        hits, same = json.loads(text)["hits"], expected[word]
        assert [hit["id"] for hit in hits] == [hit["id"] for hit in same]
        # Queries that are encoded together differ from one alone in their last digits.
        assert [hit["log_odds"] for hit in hits] == pytest.approx([hit["log_odds"] for hit in same], abs=1e-4)


def test_a_shard_without_replicas_is_named_until_it_is_back(http):
    wait_for_all(http)
    before = search(http).json()["hits"]
    for name in replicas("shard-1"):
        kill(name)
    answers = []

    def back():
        answers.append(search(http))
        return answers[-1].status_code == 200 and any(one.status_code == 503 for one in answers)

    wait_for(back)
    assert {one.status_code for one in answers} <= {200, 503}
    lost = [one for one in answers if one.status_code == 503]
    assert {one.json()["message"] for one in lost} == {"shard 1 of 2 has no live replica; try again soon"}
    assert all(int(one.headers["Retry-After"]) > 0 for one in lost)
    assert max(one.elapsed.total_seconds() for one in lost) < 20
    assert answers[-1].json()["hits"] == before


def test_a_router_is_killed_and_only_what_it_was_answering_is_lost(http):
    wait_for_all(http)
    with Load(http) as load:
        kill(replicas("router")[0])
        before = len(load.answers)
        wait_for(lambda: len(load.answers) > before + 100)
    assert len(load.failed) <= 4
    wait_for_all(http)


def test_another_server_of_the_cluster_stays_and_its_address_counts(folder, http):
    wait_for_all(http)
    config = ShardedConfig(server=ServerConfig(uri=str(folder / "index"), model=str(folder / "model")))
    with pytest.raises(InputError, match="an application 'rabtriever' is served there already"):
        serve_shards(config, "127.0.0.1", 0, lambda _: pytest.fail("it serves"))
    assert search(http).status_code == 200 and status().status == "RUNNING"
    assert _listening() == (http.base_url.host, http.base_url.port)


@pytest.mark.parametrize("client", [None, SimpleNamespace(http_config=SimpleNamespace(host=None))])
def test_a_router_that_does_not_know_where_it_listens_needs_keys(folder, monkeypatch, client):
    monkeypatch.setattr(serve.context, "_get_global_client", lambda: client)
    with pytest.raises(InputError, match="reaches beyond this machine"):
        Router(ServerConfig(uri=str(folder / "index"), model=str(folder / "model")), {})


def test_the_arguments_of_a_deployment_are_checked():
    config = ShardedConfig.from_args({"uri": "index", "shards": 3, "limits": {"timeout": 5}, "cors": ["http://a"]})
    assert (config.shards, config.server.limits.timeout, config.server.cors) == (3, 5, ("http://a",))
    for args, message in (
        ({}, "args: no uri"),
        ({"uri": "x", "shard": 1}, "args: no argument 'shard'"),
        ({"uri": "x", "limits": {"time": 1}}, "args: no argument 'time'"),
        ({"uri": "x", "loopback": True}, "args: no argument 'loopback'"),
        ({"uri": "x", "shards": 0}, "--shards 0: at least 1"),
        ({"uri": "x", "shards": "4"}, "args: shards: '4' is of another type; give an integer"),
        ({"uri": "x", "routers": True}, "args: routers: True is of another type"),
        ({"uri": "x", "cors": "http://a"}, "args: cors: 'http://a' is of another type; give a list of origins"),
        ({"uri": "x", "limits": {"timeout": "5"}}, "args: limits: timeout: '5' is of another type; give a number"),
        ({"uri": "x", "limits": 5}, "args: limits: 5 is of another type"),
    ):
        with pytest.raises(InputError, match=message):
            ShardedConfig.from_args(args)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shards", "2"], "--shards: goes with --ray"),
        (["--ray", "--workers", "2"], "--workers: goes without --ray"),
        (["--ray", "--shards", "0"], "--shards 0: at least 1"),
        (["--ray", "--host", "0.0.0.0"], "--host: reaches beyond this machine; give API keys"),
        (["--ray", "--cors", "*"], "--cors *: any web page"),
        (["--ray", "127.0.0.1:1"], "--port 0: all nodes of a cluster"),
        (["--ray", "127.0.0.1:1", "--port", "8080"], "--ray 127.0.0.1:1: no Ray cluster there"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, monkeypatch, options, message):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("it starts"))
    monkeypatch.delenv("RABTRIEVER_READ_KEYS", raising=False)
    command = ["serve", str(folder / "index"), "--model", str(folder / "model"), "--port", "0", *options]
    assert main(command) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and not output.out


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(folder):
    command = [sys.executable, "-m", "rabtriever.cli", "serve", "index", "--model", "model", "--port", "0", "--json"]
    options = ["--ray", "--shards", "1", "--replicas", "1"]
    with subprocess.Popen([*command, *options], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            answer = httpx.post(f"{url}/v1/search", json={"query": "cook bread"}, timeout=60)
            assert answer.status_code == 200 and len(answer.json()["hits"]) == 10
            assert httpx.get(url, headers={"Host": "elsewhere"}).status_code == 421
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.terminate()
