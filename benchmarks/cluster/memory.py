"""Memory of the process that starts a job of encoding, for a corpus and one of ten times as many documents.

Usage: python benchmarks/cluster/memory.py [--quick]

The encoder counts letters: what the workers compute is not what is measured here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from overhead import write_corpus

DRIVER = """
import logging, resource, sys
from types import SimpleNamespace

import ray

from rabtriever.cluster.encode import encode_corpus
from rabtriever.cluster.running import Workers


def load():
    import numpy as np
    from rabtriever.scoring.layout import ScoreLayout

    def encode(texts):
        counts = [[text.count(letter) for letter in "aeiounst" * 48] + [0, 0] for text in texts]
        return np.array(counts, np.float32)

    layout = ScoreLayout(n_inner=384)
    return SimpleNamespace(fingerprint="0" * 64, layout=layout, name_or_path=None, encode_document=encode)


source, uri = sys.argv[1:]
ray.init(
    address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False,
    logging_level=logging.ERROR,
)
encode_corpus(source, load, uri, workers=Workers(2))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure(quick: bool) -> dict[str, Any]:
    """Returns the driver's peak memory in MB for n and 10 n documents, and the ratio."""
    n = 2_000 if quick else 20_000
    peaks = {}
    for documents in (n, 10 * n):
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary) / "corpus.jsonl"
            write_corpus(source, documents)
            command = [sys.executable, "-c", DRIVER, str(source), f"{temporary}/index"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        peaks[documents] = round(int(output.split()[-1]) / 1024, 1)
    small, large = peaks.values()
    return {"driver_peak_mb": peaks, "driver_memory_ratio": round(large / small, 3)}


if __name__ == "__main__":
    print(json.dumps(measure("--quick" in sys.argv)))
