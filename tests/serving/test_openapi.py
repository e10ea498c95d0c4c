"""Schemathesis: every route, with whatever its schema allows and forbids."""

import subprocess
import sys
from pathlib import Path

import pytest
from serving.conftest import WRITE

pytest.importorskip("schemathesis")


def test_no_request_that_the_document_allows_or_forbids_surprises(live_with_keys, tmp_path):
    config = Path(__file__).with_name("schemathesis.toml")
    command = [
        Path(sys.executable).parent / "schemathesis",
        "--config-file",
        config,
        "run",
        f"{live_with_keys.url}/openapi.json",
    ]
    options = ["--checks", "all", "--max-examples", "25", "--seed", "1", "-H", f"Authorization: Bearer {WRITE}"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[:6000]
    metrics = live_with_keys.http.get("/metrics", headers={"Authorization": f"Bearer {WRITE}"}).text
    assert 'status="200"' in metrics and 'status="422"' in metrics and 'status="5' not in metrics
