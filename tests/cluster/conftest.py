"""A Ray cluster on this machine, and a corpus."""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import WORDS

ray = pytest.importorskip("ray")
NODE = {"num_cpus": 2, "object_store_memory": 100_000_000}


@pytest.fixture(scope="package")
def bucket() -> Iterator[str]:
    """URI of a bucket of an S3 server on this machine, which the environment names."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ALLOW_HTTP", "true")
        store = S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
        store.create_dir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="module")
def cluster(bucket: str) -> Iterator[Any]:
    """A cluster of one node with two cores; it knows the bucket, and this process is connected to it.

    Tests may add nodes to it.
    """
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    started = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    ray.init(started.address, log_to_driver=False, logging_level=logging.ERROR)
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A JSONL file of 240 documents, which two workers share in several parts."""
    return write_corpus(tmp_path / "corpus.jsonl", make_rows(240))


def make_rows(n: int) -> list[dict[str, Any]]:
    """Rows of random words; each text is another."""
    draw = random.Random(0)
    words = WORDS.split()[3:]
    return [
        {"_id": f"d{i}", "title": draw.choice(words), "text": f"{' '.join(draw.choices(words, k=20))} {i}", "n": i}
        for i in range(n)
    ]


def write_corpus(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
