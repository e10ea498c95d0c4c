import json
from pathlib import Path

import pytest
from tiny import write_beir

from rabtriever.cli import main


@pytest.fixture(autouse=True)
def _folder(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_beir(tmp_path / "data", tiny_data)


def distil(teacher, *argv):
    small = ["--rounds", "1", "--steps", "2", "--teacher-calls", "12", "--hidden-units", "8"]
    return main(["distill", "data", "--teacher", str(teacher), "--out", "student", *small, "--device", "cpu", *argv])


def test_the_prompt_of_a_preset_is_saved_and_needs_no_preset_again(chat_folder):
    assert distil(chat_folder, "--preset", "chat", "--task", "Find tools.", "--document-name", "Tool") == 0
    prompt = json.loads(Path("student/rabtriever.json").read_text())["prompt"]
    assert "Find tools. Answer only yes or no." in prompt["document"] and prompt["document"].endswith("{document}\n")
    assert "Is this tool the right one for the query?" in prompt["query"]
    assert main(["evaluate", "data", "--model", "student", "--systems", "retriever,reranker"]) == 0


def test_a_teacher_without_states_is_refused(cross_encoder_folder, capsys):
    assert distil(cross_encoder_folder) == 2
    assert "distil needs an LLM" in capsys.readouterr().err and not Path("student").exists()
