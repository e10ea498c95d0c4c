"""A corpus encoded by Ray against one process, and after a node and then a driver were killed in the middle.

Usage: python benchmarks/cluster/faults.py [--quick]
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from overhead import DEMO, write_corpus

from rabtriever import Index, Rabtriever, load_data
from rabtriever.sources import read_source

MODEL, WORKERS, QUERIES = "minilm", (1, 2, 4), 100
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
DRIVER = """
import sys
import ray
from rabtriever.cluster.encode import encode_corpus
from rabtriever.cluster.running import Workers

address, source, uri, model = sys.argv[1:]
ray.init(address, log_to_driver=False)
encode_corpus(source, model, uri, workers=Workers(2))
"""


def measure(quick: bool) -> dict[str, Any]:
    """Returns ``workers_log_odds_diff`` over all documents, and how many were ``lost`` and ``duplicated``."""
    os.environ.update(OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")
    import ray
    from ray.cluster_utils import Cluster

    from rabtriever.cluster.encode import encode_corpus
    from rabtriever.cluster.running import Workers

    n = 1000 if quick else 5000
    with tempfile.TemporaryDirectory() as temporary:
        folder, source = Path(temporary), Path(temporary) / "corpus.jsonl"
        write_corpus(source, n)
        retriever = Rabtriever.from_pretrained(MODEL)
        alone = scores(Index.build(folder / "alone", retriever, read_source(source)), retriever)
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            differences, ids = [], []
            for count in WORKERS:
                encode_corpus(source, MODEL, folder / f"by{count}", workers=Workers(count, cpus=1 / count))
                found = scores(Index.open(folder / f"by{count}", retriever), retriever)
                differences.append(float(np.abs(found - alone).max()))
            node = cluster.add_node(**NODE)

            def kill_node() -> None:
                wait_until_under_way(folder / "node", n)
                cluster.remove_node(node)
                require_unfinished(folder / "node")

            with ThreadPoolExecutor(1) as killer:
                killed = killer.submit(kill_node)
                encode_corpus(source, MODEL, folder / "node", workers=Workers(2))
                killed.result()
            ids += [Index.open(folder / "node").ids()]
            arguments = [cluster.address, str(source), str(folder / "driver"), MODEL]
            driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments])
            wait_until_under_way(folder / "driver", n)
            if driver.poll() is not None:
                raise RuntimeError("the driver ended before it was killed")
            driver.kill()
            driver.wait()
            require_unfinished(folder / "driver")
            encode_corpus(source, MODEL, folder / "driver", workers=Workers(1))
            ids += [Index.open(folder / "driver").ids()]
        finally:
            ray.shutdown()
            cluster.shutdown()
    expected = {f"d{i}" for i in range(n)}
    twice = sum(count - 1 for some in ids for count in Counter(some).values())
    lost = sum(len(expected - set(some)) for some in ids)
    result = {"workers_log_odds_diff": max(differences), "lost": lost, "duplicated": twice}
    return {"faults_documents": n, **result}


def scores(index: Index, retriever: Rabtriever) -> np.ndarray:
    """Returns the log-odds (q, n) of the demo's queries and all documents, in the order of insertion."""
    queries = list(load_data(DEMO).queries.values())[:QUERIES]
    latents, _ = index.latents(index.ids())
    return retriever.similarity(retriever.encode_query(queries), latents)


def wait_until_under_way(uri: Path, n: int) -> None:
    """Waits until a third of the documents are encoded."""
    from rabtriever.cluster.journal import Journal, unfinished_job

    until = time.monotonic() + 300
    while time.monotonic() < until:
        if (job := unfinished_job(str(uri))) is None:
            time.sleep(0.05)
            continue
        journal = Journal(job)
        records = (journal.folder.read(f"parts/{name}") for name in journal.folder.names("parts"))
        if sum(json.loads(record)["added"] for record in records if record) >= n / 3:
            return
        time.sleep(0.05)
    raise RuntimeError("too little was encoded")


def require_unfinished(uri: Path) -> None:
    """Raises RuntimeError if the job was done before something was killed."""
    from rabtriever.cluster.journal import unfinished_job

    if unfinished_job(str(uri)) is None:
        raise RuntimeError(f"{uri.name}: the job was done before it was killed")


if __name__ == "__main__":
    print(json.dumps(measure("--quick" in sys.argv)))
