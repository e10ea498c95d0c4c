"""Who gets into a cluster that a command starts."""

import os
import subprocess
import sys

import pytest

from rabtriever.cluster.session import AUTHENTICATION, _require_token

pytest.importorskip("ray")

HOST = """
import ray
from rabtriever.cluster.session import connected
with connected():
    print(ray.get_runtime_context().gcs_address, ray.get(ray.remote(num_cpus=1)(lambda: "works").remote()), flush=True)
    input()
"""
GUEST = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False); print('is in')"


def test_whoever_has_no_token_does_not_get_in(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in AUTHENTICATION}
    environment["HOME"] = str(tmp_path)  # without a token of Ray's own
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOST], env=environment, **pipes) as host:
        try:
            address, works = host.stdout.readline().split()
            with subprocess.Popen([sys.executable, "-c", GUEST, address], env=environment, **pipes) as guest:
                refused = any("InvalidAuthToken" in line for line in guest.stderr)
                guest.kill()  # it would try for a quarter of a minute
                entered = guest.stdout.read()
        finally:
            _, error = host.communicate("\n", timeout=60)
    assert works == "works" and host.returncode == 0 and not error
    assert refused and not entered
    assert not (tmp_path / ".ray").exists()


@pytest.mark.parametrize("name", AUTHENTICATION)
def test_what_the_environment_says_stays(monkeypatch, name):
    for one in AUTHENTICATION:
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, "given")
    _require_token()
    assert {one: os.environ[one] for one in AUTHENTICATION if one in os.environ} == {name: "given"}
