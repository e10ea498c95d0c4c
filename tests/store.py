"""An S3 server on this machine, with one bucket; its address and keys are in the environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from uuid import uuid4

import pytest

BUCKET = "bucket"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Starts moto's server; yields its address."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"access_key": "test", "secret_key": "test"}
    fs.S3FileSystem(endpoint_override=f"http://{host}:{port}", allow_bucket_creation=True, **keys).create_dir(BUCKET)
    yield f"http://{host}:{port}"
    server.stop()


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
