import json
from pathlib import Path

import pytest
from encoders.models import save_sentence_model
from stub_teacher import StubTeacher
from tiny import write_beir

from rabtriever.cli import main
from rabtriever.rerankers.remote.reranker import notice


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


@pytest.mark.parametrize("method", ["--tune-encoder", "--tune-encoder=lora"])
def test_the_encoder_is_tuned(tokenizer, tmp_path, method):
    save_sentence_model(tmp_path / "encoder", tokenizer)
    teacher = save_sentence_model(tmp_path / "teacher", tokenizer, "mpnet")
    assert distil(teacher, "--encoder", "encoder", method, "--encoder-steps", "2") == 0
    saved = json.loads(Path("student/rabtriever.json").read_text())
    assert saved["encoder_tuning"]["of"] == "encoder" and saved["encoder_tuning"]["steps"] == 2
    assert saved["encoder_tuning"]["method"] == ("lora" if "lora" in method else "full")
    assert Path("student/encoder/modules.json").exists() == (saved["encoder_tuning"]["alpha"] > 0)


def test_what_cannot_be_tuned_is_refused_in_one_line(llm_folder, capsys):
    assert distil(llm_folder, "--encoder", "teacher", "--tune-encoder") == 2
    assert "no sentence-transformers model" in capsys.readouterr().err
    assert distil(llm_folder, "--tune-encoder", "--encoder-steps", "0") == 2
    assert "steps 0: must be at least 1" in capsys.readouterr().err and not Path("student").exists()


def test_a_teacher_without_states_teaches_log_odds_alone(cross_encoder_folder, capsys):
    assert distil(cross_encoder_folder) == 0
    config = json.loads(Path("student/rabtriever.json").read_text())
    assert "cross_encoder" in config and "llm" not in config and config["encoder"]["name"] == "minilm"


def test_a_server_teaches_and_what_its_terms_may_forbid_is_said(capsys):
    notice.cache_clear()
    stub = StubTeacher()
    try:
        assert distil(stub.source("tei")) == 0
    finally:
        stub.server.shutdown()
        stub.server.server_close()
    assert capsys.readouterr().err.count("providers' terms forbid training") == 1 and 0 < sum(stub.pairs.values()) <= 12
    remote = json.loads(Path("student/rabtriever.json").read_text())["remote"]
    assert remote["name"].startswith("tei+http://127.0.0.1") and "key" not in json.dumps(remote).replace(
        "key_variable", ""
    )


@pytest.fixture
def _script(monkeypatch):
    """Instead of an LLM's answers, one usable line for each."""

    def complete(self, conversations, seeds, max_lines, max_tokens):
        return [f"1. please number {seed}\n" for seed in seeds]

    monkeypatch.setattr("rabtriever.llm.writing.Writer.complete", complete)


@pytest.mark.usefixtures("_script")
def test_requests_are_written_to_a_file_and_again_only_where_they_are_missing(chat_folder, capsys):
    command = ["generate", "data", "--generator", str(chat_folder), "-n", "2", "--out", "new.jsonl", "--device", "cpu"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"requests": "new.jsonl", "written": 6 * 2}
    assert main(command) == 0
    assert "0 new requests; next: rabtriever distill data --queries new.jsonl" in capsys.readouterr().out


@pytest.mark.usefixtures("_script")
def test_a_corpus_without_requests_is_distilled_from_generated_ones(chat_folder, capsys):
    assert distil(chat_folder, "--generate", "2", "--generator", str(chat_folder), "--encoder", "teacher") == 0
    capsys.readouterr()
    Path("data/queries.jsonl").unlink()
    corpus = ["--preset", "plain", "--generate", "2", "--generator", str(chat_folder), "--encoder", "teacher"]
    argv = ["distill", "data/corpus.jsonl", "--teacher", str(chat_folder), "--out", "other", "--rounds", "1", *corpus]
    assert main([*argv, "--steps", "2", "--teacher-calls", "12", "--device", "cpu"]) == 0
    assert "all requests were generated, so nothing confirmed" in capsys.readouterr().out
    assert len(Path("other.requests.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        (["generate", "data", "--out", "new.jsonl"], "--generator: name the instruct LLM"),
        (["generate", "data", "--out", "new.jsonl", "--generator", "LLM", "-n", "0"], "give at least 1"),
        (["generate", "data", "--out", "new.jsonl", "--generator", "LLM"], "no chat template"),
        (["distill", "data", "--out", "new", "--generate", "5"], "--generator: name the instruct LLM"),
        (["distill", "data", "data", "--out", "new", "--generate", "5"], "--generate: belongs to one corpus"),
    ],
)
def test_what_cannot_be_generated_is_one_line(llm_folder, capsys, argv, fault):
    assert main([str(llm_folder) if part == "LLM" else part for part in argv]) == 2
    error = capsys.readouterr().err
    assert fault in error and error.count("\n") == 1 and not list(Path().glob("new*"))


def test_scores_that_were_judged_are_not_asked_for_and_the_retriever_is_the_same(
    tokenizer, tmp_path, monkeypatch, capsys
):
    save_sentence_model(tmp_path / "encoder", tokenizer)
    stub = StubTeacher()
    try:
        teacher, encoder = stub.source("tei"), ("--encoder", "encoder")
        judged = "--queries-limit", "0", "--depth", "6", "--out", "store", "--device", "cpu"
        assert main(["judge", "data", "--teacher", teacher, *encoder, *judged]) == 0
        monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "another"))
        stub.requests.clear()
        assert distil(teacher, *encoder) == 0
        assert stub.requests
        Path("student").rename("asked")
        monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "third"))
        stub.requests.clear()
        assert distil(teacher, *encoder, "--scores", "store") == 0
        assert not stub.requests
        capsys.readouterr()
        assert distil("encoder", *encoder, "--scores", "store", "--out", "other") == 2
        assert "scores store: none of these teachers" in capsys.readouterr().err and not Path("other").exists()
    finally:
        stub.server.shutdown()
        stub.server.server_close()
    files = [path.relative_to("asked") for path in sorted(Path("asked").rglob("*.safetensors"))]
    assert files and all((Path("asked") / file).read_bytes() == (Path("student") / file).read_bytes() for file in files)
    assert json.loads(Path("asked/rabtriever.json").read_text()) == json.loads(
        Path("student/rabtriever.json").read_text()
    )
