"""Live servers on loopback, over a tiny random LLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from scoring.predictors import random_predictor
from tiny import make_retriever

from rabtriever.data import Document
from rabtriever.index import Index
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.fusion import Fusion
from rabtriever.serving.app import make_app
from rabtriever.serving.config import ServerConfig, ServerLimits
from rabtriever.serving.server import uvicorn_options

DOCUMENTS = [
    Document("weather", "find the weather for a city", "Weather", {"kind": "tool", "year": 2001}),
    Document("it's/bread", "a recipe for bread", "Cook", {"kind": "tool", "year": 2005}),
    Document("lamp", "turn the lamp light", "", {"year": 2010}),
    Document("music", "play music at the table"),
]
READ, WRITE = "read-key-0123456789", "write-key-0123456789"


@dataclass
class Live:
    """A server that runs.

    Attributes:
        url: Its address.
        index: What it serves.
        http: A client without a key.
        key: None.
        read_key: That may search, if there are keys.
        write_key: That may also change the index.
    """

    url: str
    index: Index
    http: httpx.Client
    key: None = None
    read_key: str = READ
    write_key: str = WRITE

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)


@contextmanager
def running(index: Index, timeout: float = 20, **options: Any) -> Iterator[Live]:
    """Serve an index from a thread."""
    config = ServerConfig(uri=index.table.uri, limits=options.pop("limits", ServerLimits()), **options)
    app = make_app(config, failed=print, index=index)
    server = uvicorn.Server(uvicorn.Config(app, port=0, **uvicorn_options(config)))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=timeout) as http:
            while http.get("/ready").status_code != 200:
                time.sleep(0.02)
            yield Live(url, index, http)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def index(retriever: Rabtriever, tmp_path: Path) -> Index:
    return Index.build(tmp_path / "index", retriever, DOCUMENTS)


@pytest.fixture(scope="module")
def standing(reranker: GenerativeReranker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server without keys for tests that change nothing."""
    folder = tmp_path_factory.mktemp("standing")
    made = make_retriever(reranker)
    retriever = Rabtriever(made.encoder, made.predictor, reranker=reranker, document_cache=100)
    with running(Index.build(folder / "index", retriever, DOCUMENTS)) as server:
        yield server


@pytest.fixture(scope="module")
def over_encoder(sentence_encoders: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of a retriever over an encoder, without a reranker."""
    torch.manual_seed(0)
    encoder = sentence_encoders["bert"]
    predictor = random_predictor(encoder.hidden_size, 8, "mlp")
    retriever = Rabtriever(encoder, predictor, fusion=Fusion(1.0, 5.0, 5.0))
    with running(Index.build(tmp_path_factory.mktemp("encoder") / "index", retriever, DOCUMENTS)) as server:
        yield server


@pytest.fixture
def live(index: Index) -> Iterator[Live]:
    """A server without keys."""
    with running(index) as server:
        yield server


@pytest.fixture
def live_with_keys(index: Index, tmp_path: Path) -> Iterator[Live]:
    """A server with a key for each role, which takes feedback."""
    keys = tmp_path / "keys"
    keys.write_text(f"# for tests\nread {READ}\nwrite {WRITE}\n")
    with running(index, keys=str(keys), feedback="texts") as server:
        yield server


@pytest.fixture
def served(retriever, tmp_path):
    """Folders of an index and its model."""
    retriever.save_pretrained(tmp_path / "model")
    Index.build(tmp_path / "index", retriever, DOCUMENTS)
    return tmp_path


@contextmanager
def process(folder, *options, **environment):
    """``rabtriever serve``, ready."""
    command = [sys.executable, "-m", "rabtriever.cli", "serve", "index", "--model", "model", "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, *options], cwd=folder, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True
    ) as running:
        try:
            url = json.loads(running.stdout.readline())["url"].replace("0.0.0.0", "127.0.0.1")
            with httpx.Client(base_url=url, timeout=60) as http:
                until = time.monotonic() + 120
                while not ready(http):
                    assert running.poll() is None and time.monotonic() < until
                    time.sleep(0.05)
                yield running, http
        finally:
            running.terminate()
            try:
                running.wait(60)
            except subprocess.TimeoutExpired:
                running.kill()


def ready(http):
    try:
        return http.get("/ready").status_code == 200
    except httpx.TransportError:  # the first worker has not begun to listen
        return False


def wait_for_all(http):
    """Wait until whichever process takes a connection is ready."""
    until, ready_in_turn = time.monotonic() + 120, 0
    while ready_in_turn < 30:
        assert time.monotonic() < until
        ready_in_turn = ready_in_turn + 1 if httpx.get(f"{http.base_url}/ready").status_code == 200 else 0
