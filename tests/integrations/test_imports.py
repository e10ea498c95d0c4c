"""An optional library is imported by the file of its adapter alone, and a missing one is told in a line."""

import subprocess
import sys

import pytest

LIBRARIES = (
    "anthropic",
    "haystack",
    "langchain",
    "langchain_core",
    "langgraph",
    "langgraph_bigtool",
    "litellm",
    "llama_index",
    "openai",
)
ADAPTERS = {"haystack": "haystack", "langchain": "langchain", "llama_index": "llama-index"}


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
    assert said.endswith(f"; pip install 'rabtriever[{ADAPTERS[adapter]}]'") and adapter in said
