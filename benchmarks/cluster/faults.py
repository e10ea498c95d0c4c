"""A corpus encoded by Ray against one process, and after a node and then a driver were killed in the middle.

Usage: python benchmarks/cluster/faults.py [--quick]
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
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
            killer = threading.Thread(target=lambda: (half_done(folder / "node", n), cluster.remove_node(node)))
            killer.start()
            encode_corpus(source, MODEL, folder / "node", workers=Workers(2))
            killer.join()
            ids += [Index.open(folder / "node").ids()]
            arguments = [cluster.address, str(source), str(folder / "driver"), MODEL]
            driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments])
            half_done(folder / "driver", n)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
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


def half_done(uri: Path, n: int) -> None:
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
    raise RuntimeError("nothing was encoded")


if __name__ == "__main__":
    print(json.dumps(measure("--quick" in sys.argv)))
