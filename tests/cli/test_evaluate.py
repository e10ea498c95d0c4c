"""`rabtriever evaluate`: which systems it makes, what they rank, and a query's own document."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny import write_beir

from rabtriever.cli import evaluate as command
from rabtriever.cli import main
from rabtriever.data import Document, RetrievalData

MEASURES = {"R@1", "R@3", "R@10", "MRR@10", "nDCG@10"}


@pytest.fixture
def workspace(tiny_data, retriever, tmp_path, monkeypatch):
    """Data, a retriever's folder and a reranker's, in the current folder."""
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_beir(tmp_path / "data", tiny_data)
    for name in ("student", "teacher"):
        retriever.save_pretrained(tmp_path / name)
    config = json.loads((tmp_path / "teacher" / "rabtriever.json").read_text())
    (tmp_path / "teacher" / "rabtriever.json").write_text(
        json.dumps({name: config[name] for name in ("format", "llm", "prompt", "calibration")})
    )
    (tmp_path / "teacher" / "predictor.safetensors").unlink()
    return tmp_path


def report(capsys, *argv):
    capsys.readouterr()
    assert main(["evaluate", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_systems_side_by_side_in_any_order(workspace, capsys):
    argv = ["data", "--model", "student", "--runs", "runs", "--systems"]
    found = report(capsys, *argv, "retriever,reranker,bm25")
    assert found["n_queries"] == 4 and found["own_documents_left_out"] == 0
    assert "no query cached" in found["timing"] and "6 hits" in found["timing"]
    assert list(found["systems"]) == ["retriever", "reranker", "bm25"]
    assert all(set(values) == MEASURES | {"R@1_interval", "ms_per_query"} for values in found["systems"].values())
    assert set(found["fidelity"]) == MEASURES | {"top1_agreement", "pearson"}
    assert found["systems"]["bm25"]["R@1"] == 1  # here query and document do share a word
    assert sorted(path.stem for path in (workspace / "runs").iterdir()) == ["bm25", "reranker", "retriever"]
    runs = {path.name: path.read_text() for path in (workspace / "runs").iterdir()}
    again = report(capsys, *argv, "bm25,reranker,retriever")
    assert list(again["systems"]) == ["bm25", "reranker", "retriever"]
    assert {path.name: path.read_text() for path in (workspace / "runs").iterdir()} == runs
    assert again["fidelity"] == found["fidelity"]


def test_the_table_says_what_it_contains(workspace, capsys):
    assert main(["evaluate", "data", "--model", "student", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 queries" in out and "ms_per_query: median of new queries" in out and "fidelity" not in out


def test_a_report_names_what_makes_it_reproducible(workspace, capsys):
    argv = ["data", "--model", "student", "--systems", "bm25,retriever,reranker", "--limit", "3", "--seed", "5"]
    found = report(capsys, *argv, "--report", "out/report")
    written = json.loads((workspace / "out" / "report" / "report.json").read_text())
    assert written["command"] == f"rabtriever evaluate {' '.join(argv)} --report out/report --json"
    assert written["n_queries"] == found["n_queries"] == 3 and written["seed"] == 5
    assert list(written["systems"]) == list(found["systems"])
    assert written["models"]["retriever"]["name"] == "student"
    assert set(written["models"]) == {"retriever", "encoder", "reranker"}
    assert written["student_and_teacher"]["fidelity"] == found["fidelity"]
    assert sorted(path.stem for path in (workspace / "out" / "report" / "runs").iterdir()) == sorted(found["systems"])
    assert main(["evaluate", *argv[:3], "--systems", "bm25", "--report", "text"]) == 0
    assert capsys.readouterr().out.endswith("report: text/report.html\n")
    assert set(json.loads((workspace / "text" / "report.json").read_text())["models"]) == set()  # none was used


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--report", "data"], "data: exists already; give another folder or remove it"),
        (["--report", "data/corpus.jsonl/report"], "corpus.jsonl is a file"),
        (["--report", "closed/report"], "closed cannot be written"),
        (["--report", "report", "--runs", "runs"], "not allowed with argument --report"),
    ],
)
def test_a_place_for_a_report_is_checked_before_the_work(workspace, capsys, monkeypatch, argv, message):
    (workspace / "closed").mkdir()
    access = os.access  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and access(path, mode))
    before = sorted(workspace.rglob("*"))
    assert main(["evaluate", "data", "--model", "nowhere", *argv]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line and sorted(workspace.rglob("*")) == before


def test_a_querys_own_document_is_left_out(workspace, capsys):
    texts = [
        "Homework helps pupils to learn.",
        "Homework steals pupils their time.",
        "Trams are quiet.",
        "No trams!",
    ]
    documents = {f"arg{i}": Document(f"arg{i}", text) for i, text in enumerate(texts)}
    qrels = {"test": {f"arg{i}": {f"arg{i ^ 1}": 1} for i in range(4)}}
    data = RetrievalData("debate", documents, {key: found.text for key, found in documents.items()}, qrels)
    write_beir(workspace / "debate", data)
    found = report(capsys, "debate", "--model", "student", "--systems", "bm25")
    assert found["own_documents_left_out"] == 4
    assert found["systems"]["bm25"]["R@1"] == found["systems"]["bm25"]["nDCG@10"] == 1
    assert main(["evaluate", "debate", "--model", "student", "--systems", "bm25"]) == 0
    assert "4 queries; 4 of them are documents" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["teacher", "student"])
def test_a_reranker_is_evaluated_alone(workspace, capsys, reranker, tiny_data, model):
    exact = ["--backend", "torch", "--dtype", "float32", "--device", "cpu"]  # as the fixture is
    report(capsys, "data", "--model", model, "--systems", "reranker", "--runs", "runs", *exact)
    lines = [line.split() for line in (workspace / "runs" / "reranker.trec").read_text().splitlines()]
    texts = [document.content for document in tiny_data.documents.values()]
    for query, text in tiny_data.labelled_queries("test").items():
        order = np.argsort(-reranker.log_odds([text], texts)[0], kind="stable")
        assert [line[2] for line in lines if line[0] == query] == [list(tiny_data.documents)[i] for i in order]


@pytest.fixture
def scored(reranker, monkeypatch):
    """The documents of each call of the reranker."""
    calls, score = [], type(reranker).score

    def recording(self, queries, documents, pairs, **options):
        calls.append([documents[d] for _, d in pairs.tolist()])
        return score(self, queries, documents, pairs, **options)

    monkeypatch.setattr(type(reranker), "score", recording)
    return calls


def test_the_reranker_scores_all_of_a_small_corpus_and_the_best_of_a_larger_one(
    tiny_data, retriever, scored, monkeypatch
):
    monkeypatch.setattr(command, "RERANK_DEPTH", 2)
    query, contents = "please show lamp", {document.content for document in tiny_data.documents.values()}
    for names in (["reranker"], ["retriever", "reranker"]):
        systems = command.make_systems(names, tiny_data, retriever, rerank_all_up_to=6)
        [hits] = systems["reranker"]([query])
        assert len(hits) == 6 and all(hit.reranked for hit in hits) and set(scored.pop()) == contents
    systems = command.make_systems(["retriever", "reranker"], tiny_data, retriever, rerank_all_up_to=5)
    [best], [hits] = systems["retriever"]([query]), systems["reranker"]([query])
    assert scored.pop() == [hit.text for hit in best[:2]]
    assert {hit.id for hit in hits if hit.reranked} == {hit.id for hit in best[:2]}
    systems = command.make_systems(["reranker"], tiny_data, None, retriever.reranker, rerank_all_up_to=5)
    [hits] = systems["reranker"]([query])  # BM25 finds one document with a word of the query
    assert [hit.id for hit in hits] == ["lamp"] and len(scored.pop()) == 1


def test_a_querys_own_document_takes_no_candidates_slot(tiny_data, retriever, scored, monkeypatch):
    monkeypatch.setattr(command, "RERANK_DEPTH", 2)
    lamp = tiny_data.documents["lamp"]
    tiny_data.queries["lamp"] = lamp.text
    systems = command.make_systems(["retriever", "reranker"], tiny_data, retriever, rerank_all_up_to=5)
    systems["reranker"]([lamp.text])
    assert len(scored.pop()) == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--systems", "bm25,magic"], "--systems 'magic': choose from bm25, encoder, retriever, rerankN, reranker"),
        (["--systems", ""], "--systems '': choose from"),
        (["--limit", "0"], "a limit of 0"),
        (["--split", "nope"], "'nope'"),
    ],
)
def test_bad_options_are_refused_before_a_model_is_loaded(workspace, capsys, argv, message):
    assert main(["evaluate", "data", "--model", "nowhere", *argv]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line and "nowhere" not in line


def test_a_rerankers_folder_is_no_retriever(workspace, capsys):
    assert main(["evaluate", "data", "--model", "teacher"]) == 2
    assert "a reranker, not a retriever" in capsys.readouterr().err


def test_any_reranker_is_evaluated_alone(workspace, capsys, chat_folder, cross_encoder_folder):
    argv = ["data", "--systems", "reranker", "--device", "cpu", "--model"]
    assert report(capsys, *argv, str(cross_encoder_folder))["n_queries"] == 4
    plain = report(capsys, *argv, str(chat_folder), "--runs", "plain")
    chat = report(capsys, *argv, str(chat_folder), "--preset", "chat", "--task", "Find tools.", "--runs", "chat")
    assert plain["n_queries"] == chat["n_queries"] == 4
    runs = [(workspace / name / "reranker.trec").read_text() for name in ("plain", "chat")]
    assert runs[0] != runs[1]
