"""An S3 server on this machine, with one bucket; its address and keys are in the environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

BUCKET = "bucket"


@contextmanager
def running_server() -> Iterator[str]:
    """Runs moto's server, one more on the same objects if there is one already; yields its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A server with a bucket; yields its address."""
    from pyarrow import fs

    with running_server() as url:
        options = {"access_key": "test", "secret_key": "test", "endpoint_override": url}
        fs.S3FileSystem(allow_bucket_creation=True, **options).create_dir(BUCKET)
        yield url


@pytest.fixture
def store(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> str:
    """Sets the environment; returns a URI below which there is nothing yet."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    return f"s3://{BUCKET}/{uuid4().hex}"
