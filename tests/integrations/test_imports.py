"""An optional library is imported by the file of its adapter alone, and a missing one is told in a line."""

import subprocess
import sys

import pytest

from rabtriever.cli import main
from rabtriever.errors import MissingExtraError

LIBRARIES = (
    "anthropic",
    "haystack",
    "langchain",
    "langchain_core",
    "langgraph",
    "langgraph_bigtool",
    "litellm",
    "llama_index",
    "mcp",
    "mteb",
    "onnx",
    "onnxscript",
    "openai",
)
ADAPTERS = {"haystack": "haystack", "langchain": "langchain", "llama_index": "llama-index", "mteb": "mteb"}
COMMANDS = {
    "serve": (["serve", "index"], "uvicorn"),
    "mcp": (["mcp", "--config", "mcp.json"], "mcp"),
}


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "statement",
    [
        "import rabtriever",
        "from rabtriever.cli import main; main(['--help'])",
        "from rabtriever import Index, Rabtriever, load_reranker; import rabtriever.integrations.tool_search",
    ],
)
def test_no_adapters_library_is_imported_unless_its_file_is(statement):
    assert run(f"import sys; {statement}; print([name for name in {LIBRARIES} if name in sys.modules])") == "[]"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_missing_library_names_its_extra(adapter):
    blocked = f"import sys; sys.modules.update(dict.fromkeys({LIBRARIES}))"
    code = f"{blocked}\ntry:\n import rabtriever.integrations.{adapter}\nexcept ImportError as error: print(error)"
    said = run(code)
    assert said.endswith(f"; run: pip install 'rabtriever[{ADAPTERS[adapter]}]'") and adapter in said


@pytest.mark.parametrize("extra", COMMANDS)
def test_a_command_says_it_in_a_line(extra, tmp_path, monkeypatch, capsys):
    argv, library = COMMANDS[extra]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "rabtriever.serving.server", raising=False)
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert library in line and line.endswith(f"pip install 'rabtriever[{extra}]'") and not list(tmp_path.iterdir())


def test_the_onnx_export_says_it(tmp_path, monkeypatch):
    from rabtriever.integrations.onnx import save_onnx

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"onnxscript.*pip install 'rabtriever\[onnx\]'"):
        save_onnx(None, tmp_path / "out")
