"""The cache of machine code: used again, and never for other code."""

import os
import subprocess
import sys
import time

import pytest

HEAD = "from rabtriever.kernels.compile import njit\n"
CALLER = HEAD + "from callee import value\n\n\n@njit()\ndef call():\n    return value()\n"
CALLEE = HEAD + "\n\n@njit()\ndef value():\n    return {}\n"
RUN = """
import sys
from pathlib import Path
from rabtriever.kernels import compile
compile.FOLDERS = (Path(sys.argv[1]),)
sys.path.insert(0, sys.argv[1])
from caller import call
print(call(), sum(call.stats.cache_hits.values()), compile.compiled_folder())
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs ``call`` in a process of its own: its result, how often machine code was loaded, the cache folder."""
    code, cache = tmp_path / "code", tmp_path / "cache"
    code.mkdir()
    monkeypatch.setenv("RABTRIEVER_CACHE", str(cache))

    def run(value):
        (code / "caller.py").write_text(CALLER)
        (code / "callee.py").write_text(CALLEE.format(value))
        done = subprocess.run([sys.executable, "-B", "-c", RUN, str(code)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


def test_a_change_in_a_called_function_is_compiled(run):
    result, hits, folder = run(1)
    assert (result, hits) == ("1", "0")
    assert run(1) == ["1", "1", folder]
    result, hits, other = run(2)
    assert (result, hits) == ("2", "0") and other != folder
    assert run(1) == ["1", "1", folder]


def test_without_a_writable_folder_nothing_is_cached(run, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    assert run(1) == ["1", "0", "None"]


def test_a_damaged_cache_is_compiled_anew(run, tmp_path):
    run(1)
    for path in (tmp_path / "cache").rglob("*.nb*"):
        path.write_bytes(b"damaged")
    assert run(1)[:2] == ["1", "0"]
    assert run(1)[:2] == ["1", "1"]


def test_folders_long_unused_are_removed(run, tmp_path):
    folders = [tmp_path / "cache" / "compiled" / name for name in ("old", "new")]
    for folder, days in zip(folders, (40, 1), strict=True):
        folder.mkdir(parents=True)
        os.utime(folder, (0, time.time() - days * 86_400))
    run(1)
    assert [folder.exists() for folder in folders] == [False, True]


TWICE = """
import re
import numpy as np
from rabtriever.kernels.compile import njit
from rabtriever.llm.int8.elementwise import silu_gate


@njit()
def twice(rows, codes, scales):
    silu_gate(rows, 32, 2, scales, 2, codes, scales)
    silu_gate(rows, 32, 1, scales, 2, codes, scales)


twice(np.ones((2, 64), np.float32), np.empty((2, 32), np.uint8), np.ones(2, np.float32))
functions = re.findall("^define .*", twice.inspect_llvm(twice.signatures[0]), re.M)
print([name for name in functions if "silu_gate" in name], any("twice" in name for name in functions))
"""


def test_a_caller_has_no_copy_of_a_function_that_cached_code_would_call_instead(tmp_path, monkeypatch):
    # A process that compiled both calls the original, one that loads the caller its copy: sums then differ in the last
    # bits, codes of eight bits by one, and log-odds by up to 0.3.
    (tmp_path / "twice.py").write_text(TWICE)
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path))
    done = subprocess.run([sys.executable, tmp_path / "twice.py"], capture_output=True, text=True)
    assert done.stdout == "[] True\n", done.stderr
