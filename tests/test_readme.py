"""README's Python, from the checkout and from a wheel."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pages import ROOT, blocks

README = ROOT / "README.md"


def run_readme(package_root, folder):
    """Runs README's Python in a folder with a corpus and requests, with the package that is found in package_root.

    The teacher is the reranker that ships, since no hub is asked in a test.
    """
    folder.mkdir()
    demo = ROOT / "src" / "rabtriever" / "demo"
    shutil.copy(demo / "corpus.jsonl", folder)
    lines = (demo / "queries.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    (folder / "requests.jsonl").write_text("\n".join(lines), encoding="utf-8")
    python = "\n".join(block.code for block in blocks(README, "python")).replace('["mpnet"]', '["tools"]')
    code = f"import rabtriever, sys\nprint(rabtriever.__file__, file=sys.stderr)\n{python}"
    environment = {**os.environ, "PYTHONPATH": str(package_root), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stderr.splitlines()[0]).is_relative_to(package_root)
    return done


@pytest.mark.slow
def test_readme_runs(tmp_path):
    run_readme(ROOT / "src", tmp_path / "work")


@pytest.mark.slow
def test_readme_runs_with_an_installed_wheel(tmp_path):
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("rabtriever-*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    assert not (tmp_path / "models").exists()
    assert sorted(path.name for path in (tmp_path / "site" / "rabtriever" / "models").iterdir()) == ["tools"]
    run_readme(tmp_path / "site", tmp_path / "work")
