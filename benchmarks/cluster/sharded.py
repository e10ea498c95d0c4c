"""An index in shards against the same index in one process: hits, latency over HTTP, and a replica that dies.

Usage: python benchmarks/cluster/sharded.py [--quick] [--model minilm] [--out FILE]

Documents are random latents of the model's width; queries are texts that differ, so that no cache answers. Both servers
and their clients share this machine: the difference is what Ray's way from process to process costs, not a speed-up.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from rabtriever import Document, Index, Rabtriever
from rabtriever.cluster.shards import Shard, ShardedIndex

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import machine

SHARDS, REPLICAS, CLIENTS, TOP = 4, 2, 4, 100
WORDS = (
    "weather rain city flight hotel recipe bread music song light lamp table sponge tool order bank card trip".split()
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer documents, requests and processes")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--out")
    args = parser.parse_args()
    report = {**machine(), **measure(args.quick, args.model)}
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def measure(quick: bool, model: str = "minilm") -> dict[str, Any]:
    """Returns ``max_log_odds_diff``, ``failed_requests``, and milliseconds of searches of both servers."""
    n_documents, n_requests, shards = (5_000, 100, 2) if quick else (20_000, 400, SHARDS)
    retriever = Rabtriever.from_pretrained(model)
    texts = (f"{WORDS[i % 18]} {WORDS[i * 7 % 17]} {i}" for i in count())
    with tempfile.TemporaryDirectory() as folder:
        uri = str(Path(folder) / "index")
        index = build(uri, retriever, n_documents)
        report: dict[str, Any] = {"documents": n_documents, "shards": shards, "replicas": REPLICAS}
        report |= compare(index, [next(texts) for _ in range(200)])
        with server(uri, model) as (http, _):
            report["single"] = latency(http, texts, n_requests)
        with server(uri, model, "--ray", "--shards", str(shards), "--replicas", str(REPLICAS)) as (http, process):
            report["sharded"] = latency(http, texts, n_requests)
            report |= kill_a_replica(http, process, texts, seconds=10 if quick else 30)
    return report


def build(uri: str, retriever: Rabtriever, n: int) -> Index:
    """Makes an index of random latents, a tenth of them twice."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((n, retriever.dim)).astype(np.float32)
    latents[:, :-2] /= np.linalg.norm(latents[:, :-2], axis=1, keepdims=True)
    latents[:, -2:] = 1, 0
    latents[-n // 10 :] = latents[: n // 10]
    index = Index.create(uri, retriever)
    index.add([Document(f"d{i}", f"document {i}") for i in range(n)], latents=latents)
    index.warm()
    return index


def compare(index: Index, queries: list[str]) -> dict[str, Any]:
    """Returns the largest difference of log-odds between the index and its shards, and whether all hits are equal."""
    uri = index.table.uri
    shards = ShardedIndex(uri, index.retriever, [Shard(uri, number, SHARDS) for number in range(SHARDS)])
    pairs = list(zip(index.search(queries, TOP), shards.search(queries, TOP), strict=True))
    differences = [abs(a.log_odds - b.log_odds) for one, other in pairs for a, b in zip(one, other, strict=True)]
    same = all([hit.id for hit in one] == [hit.id for hit in other] for one, other in pairs)
    return {"queries": len(queries), "max_log_odds_diff": max(differences), "same_top_100": same}


@contextmanager
def server(uri: str, model: str, *options: str) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """Runs ``rabtriever serve``, ready."""
    command = [sys.executable, "-m", "rabtriever.cli", "serve", uri, "--model", model, "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            with httpx.Client(base_url=url, timeout=60) as http:
                while http.get("/ready").status_code != 200:
                    time.sleep(0.1)
                yield http, process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


def search(http: httpx.Client, text: str) -> tuple[bool, float]:
    """Returns whether a search succeeded, and its milliseconds."""
    started = time.perf_counter()
    try:
        done = http.post("/v1/search", json={"query": text}).status_code == 200
    except httpx.TransportError:
        done = False
    return done, 1000 * (time.perf_counter() - started)


def latency(http: httpx.Client, texts: Iterator[str], n: int) -> dict[str, float]:
    """Returns percentiles of one client's searches, in milliseconds."""
    for _ in range(20):
        search(http, next(texts))
    answers = [search(http, next(texts)) for _ in range(n)]
    assert all(done for done, _ in answers)
    p50, p99 = np.percentile([milliseconds for _, milliseconds in answers], [50, 99])
    return {"p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1)}


def kill_a_replica(
    http: httpx.Client, process: subprocess.Popen[str], texts: Iterator[str], seconds: float
) -> dict[str, Any]:
    """Returns how many of several clients' searches failed while a shard's process got SIGKILL."""
    stop, lock = threading.Event(), threading.Lock()

    def client() -> list[tuple[bool, float]]:
        answers = []
        with httpx.Client(base_url=http.base_url, timeout=60) as own:
            while not stop.is_set():
                with lock:
                    text = next(texts)
                answers.append(search(own, text))
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        time.sleep(seconds / 4)
        name = "ServeReplica:rabtriever:shard-0"
        children = psutil.Process(process.pid).children(recursive=True)
        victims = [child for child in children if any(name in part for part in child.cmdline())]
        os.kill(victims[0].pid, signal.SIGKILL)
        time.sleep(3 * seconds / 4)
        stop.set()
        answers = [answer for one in clients for answer in one.result()]
    return {
        "killed_of": len(victims),
        "requests": len(answers),
        "failed_requests": sum(not done for done, _ in answers),
        "slowest_ms": round(max(milliseconds for _, milliseconds in answers), 1),
    }


if __name__ == "__main__":
    main()
