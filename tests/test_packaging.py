"""What a user installs: the distributions, the extras, the versions, and the files beside them that say so."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rabtriever

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCHEMAS = {
    "CITATION.cff": "citation-file-format",
    "compose.yaml": "compose-spec",
    ".github/workflows/ci.yml": "github-workflows",
    ".github/workflows/release.yml": "github-workflows",
}


def run(*command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder of a wheel and an sdist, each built from the tree."""
    folder = tmp_path_factory.mktemp("dist")
    run("build", "--no-isolation", "--wheel", "--sdist", "--outdir", str(folder))
    return folder


def test_the_wheel_holds_the_package_the_model_and_the_page_and_nothing_else(dist):
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    inside = {name for name in names if name.startswith("rabtriever/")}
    assert {name.split("/")[0] for name in names - inside} == {f"rabtriever-{rabtriever.__version__}.dist-info"}
    for needed in ("models/tools/rabtriever.json", "models/tools/predictor.safetensors", "demo/corpus.jsonl"):
        assert f"rabtriever/{needed}" in inside
    assert any(name.startswith("rabtriever/serving/page/") for name in inside)
    assert not [name for name in inside if "__pycache__" in name or name.startswith("rabtriever/tests")]


def test_the_sdist_builds_the_same_wheel(dist, tmp_path):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--outdir",
        str(tmp_path / "dist"),
        str(tree),
    ]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as a, zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as b:
        assert {(file.filename, file.CRC) for file in a.infolist()} == {
            (file.filename, file.CRC) for file in b.infolist()
        }


def test_metadata_are_what_pypi_takes(dist):
    run("twine", "check", "--strict", *map(str, dist.iterdir()))


def test_versions_agree():
    assert PROJECT["version"] == rabtriever.__version__
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(
        rf"^## \[Unreleased\]\n.*{re.escape(PROJECT['version'])}|^## \[{re.escape(PROJECT['version'])}\]", changes, re.M
    )


def test_every_bound_is_one_that_make_installs():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    extras = PROJECT["optional-dependencies"]
    required = [*PROJECT["dependencies"], *(line for name in ("serve", "mcp", "onnx") for line in extras[name])]
    for requirement in map(Requirement, required):
        version = pinned.get(re.sub(r"[-_.]+", "-", requirement.name).lower())
        assert requirement.specifier and (version is None or requirement.specifier.contains(version)), requirement


@pytest.mark.parametrize("path", SCHEMAS)
def test_files_follow_their_schemas(path):
    run("check_jsonschema", "--builtin-schema", f"vendor.{SCHEMAS[path]}", path)


def test_the_citation_names_both_papers():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert text.count("family-names: Ji}") == 2 and "2604.23336" in text and "2412.16615" in text
