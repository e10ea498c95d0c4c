"""What Ray adds to encoding: two workers of one core against two processes that each make an index of one half.

Usage: python benchmarks/cluster/overhead.py [--quick]

Both sides read JSONL, load the model, encode, write and make the indices; the cluster runs before. They take turns.
"""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import rabtriever

DEMO = Path(rabtriever.__file__).parent / "demo"
MODEL, N_DOCUMENTS, N_WORKERS = "minilm", 5000, 2
PLAIN = """
import sys
from rabtriever import Index, Rabtriever
from rabtriever.sources import read_source

source, uri, model = sys.argv[1:]
Index.build(uri, Rabtriever.from_pretrained(model), read_source(source))
"""


def measure(quick: bool) -> dict[str, Any]:
    """Returns ``ray_overhead``, the ratio of the medians, and the seconds of both sides in each round."""
    os.environ.update(OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")
    import ray

    plain, by_ray = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_corpus(folder / "corpus.jsonl", N_DOCUMENTS)
        ray.init(
            address="local",
            num_cpus=N_WORKERS,
            include_dashboard=False,
            object_store_memory=100_000_000,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            for i in range(1 if quick else 3):
                plain.append(_plain(folder, folder / f"plain{i}"))
                by_ray.append(_by_ray(folder, folder / f"ray{i}"))
        finally:
            ray.shutdown()
    return {
        "documents": N_DOCUMENTS,
        "workers": N_WORKERS,
        "model": MODEL,
        "seconds_two_processes": [round(value, 1) for value in plain],
        "seconds_ray": [round(value, 1) for value in by_ray],
        "ray_overhead": round(median(by_ray) / median(plain), 3),
    }


def write_corpus(path: Path, n: int) -> None:
    """Writes documents of two to four sentences each of the demo's documents, and the same in two halves."""
    lines = (DEMO / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    draw = random.Random(0)
    rows = [{"_id": f"d{i}", "text": " ".join(draw.choices(texts, k=draw.randint(2, 4)))} for i in range(n)]
    halves = {path: rows, path.with_suffix(".0.jsonl"): rows[: n // 2], path.with_suffix(".1.jsonl"): rows[n // 2 :]}
    for name, some in halves.items():
        name.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")


def _plain(folder: Path, uri: Path) -> float:
    started = time.perf_counter()
    processes = [
        subprocess.Popen([sys.executable, "-c", PLAIN, str(folder / f"corpus.{i}.jsonl"), f"{uri}-{i}", MODEL])
        for i in range(N_WORKERS)
    ]
    if any([process.wait() for process in processes]):
        raise RuntimeError("a plain process failed")
    return time.perf_counter() - started


def _by_ray(folder: Path, uri: Path) -> float:
    from rabtriever.cluster.encode import encode_corpus
    from rabtriever.cluster.running import Workers

    started = time.perf_counter()
    done = encode_corpus(folder / "corpus.jsonl", MODEL, uri, workers=Workers(N_WORKERS))
    if done.documents != N_DOCUMENTS:
        raise RuntimeError(f"{done.documents} documents")
    return time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps(measure("--quick" in sys.argv)))
