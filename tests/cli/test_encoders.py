"""The commands over tiny sentence-transformers models: distilled over, taught by, and used as they are."""

import json

import pytest
from tiny import write_beir

from rabtriever.cli import main
from rabtriever.retriever import Rabtriever

SMALL = ["--rounds", "2", "--steps", "20", "--hidden-units", "8", "--backend", "torch", "--device", "cpu"]


@pytest.fixture
def workspace(tiny_data, tmp_path, monkeypatch):
    """An empty folder with data and requests; the hub is offline."""
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    write_beir(tmp_path / "data", tiny_data)
    lines = [
        {"text": f"{start} {topic}"} for start in ("show", "find the", "where is") for topic in tiny_data.documents
    ]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def answer(capsys, *argv):
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_requests_and_two_encoders_to_a_searched_index(workspace, sentence_folders, capsys):
    encoder, teacher = (str(sentence_folders[name]) for name in ("bert", "mpnet"))
    argv = ["distill", "data/corpus.jsonl", "--queries", "requests.jsonl", "--teacher", teacher, "--encoder", encoder]
    made = answer(capsys, *argv, "--out", "student", *SMALL)
    assert made["retriever"] == "student" and made["gain"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    retriever = Rabtriever.from_pretrained("student", device="cpu", backend="torch")
    assert retriever.fusion.gain == made["gain"] and retriever.reranker is None
    assert answer(capsys, "index", "data", "--model", "student", "--out", "index")["documents"] == 6
    found = answer(capsys, "search", "index", "find the lamp for me", "-k", "2")
    assert len(found["hits"]) == 2 and not found["hits"][0]["reranked"]
    report = answer(capsys, "evaluate", "data", "--model", "student", "--split", "test", "--systems", "retriever")
    assert "retriever" in report["systems"]


def test_an_encoder_is_indexed_and_searched_as_it_is_from_wherever(workspace, sentence_folders, capsys, monkeypatch):
    (workspace / "encoder").symlink_to(sentence_folders["bert"])
    assert answer(capsys, "index", "data", "--model", "encoder", "--out", "index")["documents"] == 6
    hits = answer(capsys, "search", "index", "find the lamp for me")["hits"]
    (workspace / "elsewhere").mkdir()
    monkeypatch.chdir(workspace / "elsewhere")
    assert answer(capsys, "search", "../index", "find the lamp for me")["hits"] == hits
    retriever = Rabtriever.from_encoder(sentence_folders["bert"], device="cpu")
    expected = retriever.similarity(
        retriever.encode_query("find the lamp for me"), retriever.encode_document([hit["text"] for hit in hits])
    )[0]
    assert [hit["log_odds"] for hit in hits] == pytest.approx(sorted(expected, reverse=True), abs=1e-4)
    argv = ["evaluate", "../data", "--model", str(sentence_folders["bert"]), "--split", "test"]
    assert "retriever" in answer(capsys, *argv)["systems"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--teacher", "nowhere", "--encoder", "{bert}"], "nowhere: "),
        (["--teacher", "{mpnet}", "--encoder", "nowhere"], "nowhere: "),
        (["--teacher", "no-such/model", "--encoder", "{bert}"], "no-such/model: "),
        (["--teacher", "{mpnet}", "--encoder", "teacher"], "no LLM among the teachers"),
        (["--encoder", "{bert}"], "nothing to learn from"),
    ],
)
def test_a_bad_name_is_one_line_and_nothing_is_written(workspace, sentence_folders, capsys, argv, message):
    argv = [argument.format(**sentence_folders) for argument in argv]
    assert main(["distill", "data", "--queries", "requests.jsonl", *argv, "--out", "student", *SMALL]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("rabtriever")]
    assert len(lines) == 1 and message in lines[0] and not out, err
    assert not (workspace / "student").exists()


def test_requests_belong_to_one_corpus(workspace, capsys):
    assert main(["distill", "data", "data", "--queries", "requests.jsonl", "--out", "student"]) == 2
    assert "--queries: belongs to one corpus" in capsys.readouterr().err
