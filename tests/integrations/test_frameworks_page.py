"""docs/frameworks.md: its Python runs as written."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"


@pytest.mark.slow
def test_the_snippets_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    for library in ("langchain", "llama_index", "haystack"):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert "sponge " in capsys.readouterr().out.splitlines()[0]
    assert names["documents"][0].id == "sponge"
    assert names["found"][0].id == "sponge"
    assert names["retrieve"]("I knocked my soda over")[0] == "fetch_sponge"
