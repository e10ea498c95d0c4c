import json
import subprocess
import sys

import pytest

from rabtriever.cli import main
from rabtriever.retriever import Rabtriever
from rabtriever.training import mining


def write_beir(folder, data):
    (folder / "qrels").mkdir(parents=True)
    lines = [{"_id": d.id, "title": d.title, "text": d.text} for d in data.documents.values()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"_id": query, "text": text} for query, text in data.queries.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, qrels in data.qrels.items():
        rows = [
            f"{query}\t{document}\t{grade}\n" for query, right in qrels.items() for document, grade in right.items()
        ]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    return str(folder)


@pytest.fixture
def workspace(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mining, "STEPS", 5)
    monkeypatch.chdir(tmp_path)
    write_beir(tmp_path / "data", tiny_data)
    (tmp_path / "prompt.json").write_text(json.dumps({"document_tokens": 20, "query_tokens": 20}))
    return tmp_path


def answer(capsys, *argv):
    capsys.readouterr()
    assert main(argv) == 0
    return json.loads(capsys.readouterr().out)


def test_train_distill_index_search_evaluate(workspace, llm_folder, capsys):
    small = ["--steps", "2", "--negatives", "2", "--prompt", "prompt.json", "--model", str(llm_folder)]
    assert answer(capsys, "train", "data", "--out", "teacher", "--json", *small) == {"reranker": "teacher"}
    small = ["--teacher-calls", "12", "--rounds", "2", "--steps", "4", "--width", "8"]
    made = answer(capsys, "distill", "data", "--teacher", "teacher", "--out", "student", "--json", *small)
    assert made == {"retriever": "student"}
    made = answer(capsys, "index", "data", "--model", "student", "--out", "index", "--json")
    assert made == {"index": "index", "documents": 6}
    found = answer(
        capsys, "search", "index", "please show rain", "-k", "2", "--where", "id <> 'lamp'", "--rerank", "3", "--json"
    )
    assert len(found["hits"]) == 2
    assert set(found["hits"][0]) == {"id", "probability", "log_odds", "text", "metadata", "reranked"}
    report = answer(
        capsys,
        "evaluate",
        "data",
        "--model",
        "student",
        "--systems",
        "retriever,reranker,bm25",
        "--runs",
        "runs",
        "--json",
    )
    measures = {"R@1", "R@3", "R@10", "MRR@10", "nDCG@10", "ms_per_query"}
    assert report["n_queries"] == 4
    assert {name: set(values) for name, values in report["systems"].items()} == dict.fromkeys(
        ("retriever", "reranker", "bm25"), measures
    )
    assert set(report["fidelity"]) == measures - {"ms_per_query"} | {"top1_agreement", "pearson"}
    assert report["systems"]["bm25"]["R@1"] == 1  # here query and document do share a word
    assert sorted(path.name for path in (workspace / "runs").iterdir()) == [
        "bm25.trec",
        "reranker.trec",
        "retriever.trec",
    ]
    assert main(["evaluate", "data", "--model", "student", "--limit", "2"]) == 0
    assert "2 queries" in capsys.readouterr().out
    assert main(["search", "index", "rain"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    # On a corpus larger than --depth the reranker sees the first stage's candidates only.
    assert answer(capsys, "evaluate", "data", "--model", "student", "--systems", "reranker", "--depth", "2", "--json")


def test_demo_prints_quality_and_what_to_do_next(workspace, retriever, capsys):
    retriever.save_pretrained(workspace / "model")
    report = answer(capsys, "demo", "--model", "model", "--json")
    assert report["n_queries"] == 40 and set(report["systems"]) == {"retriever", "bm25"}
    assert main(["demo", "--model", "model"]) == 0
    out = capsys.readouterr().out
    assert out.count("BM25's pick") == 5 and "rabtriever train DATA" in out and "40 queries" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["index", "nowhere", "--model", "m", "--out", "i"], "nowhere"),
        (["index", "data", "--model", "nowhere", "--out", "i"], "nowhere: no model there"),
        (["index", "data", "--out", "i"], "--model: name the retriever"),
        (["index", "data", "--out", "nowhere", "--update"], "nowhere: no such index"),
        (["search", "nowhere", "rain"], "nowhere: no such index"),
        (["info", "nowhere"], "nowhere: no such index"),
        (["train", "data", "--out", "data"], "data: exists already"),
        (["train", "data", "--out", "t", "--objective", "magic"], "objective 'magic'"),
        (["train", "data", "--out", "t", "--prompt", "nowhere.json"], "nowhere.json: not a readable JSON"),
        (["train", "data", "--out", "t", "--model", "no-such/llm"], "no-such/llm"),
        (["distill", "data", "--teacher", "nowhere/else", "--out", "s"], "nowhere/else"),
        (["evaluate", "data", "--model", "m", "--split", "nope"], "'nope'"),
        (["evaluate", "data", "--model", "m", "--systems", "magic"], "'magic'"),
        (["evaluate", "data", "--model", "m", "--limit", "0"], "--limit 0"),
        (["demo", "--model", "nowhere"], "nowhere"),
        (["train", "data", "--out", "t", "--model", "{llm}", "--prompt", "choice.json"], "' undoubtedly' is"),
        (["train", "data", "--out", "t", "--model", "{llm}", "--prompt", "types.json"], "must be a string"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(workspace, llm_folder, capsys, monkeypatch, argv, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (workspace / "choice.json").write_text('{"yes": " undoubtedly"}')
    (workspace / "types.json").write_text('{"yes": 1}')
    argv = [str(llm_folder) if argument == "{llm}" else argument for argument in argv]
    before = {path for path in workspace.rglob("*") if "cache" not in path.parts}
    assert main(argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rabtriever ")]
    assert len(lines) == 1 and message in lines[0]
    assert {path for path in workspace.rglob("*") if "cache" not in path.parts} == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-k", "0"], "k 0"),
        (["--rerank", "0"], "rerank 0"),
        (["--where", "colour = 'red'"], "where \"colour = 'red'\""),
        (["--mode", "fast"], "mode 'fast'"),
        (["--hybrid", "both"], "hybrid 'both'"),
        (["--model", "other"], "index again"),
    ],
)
def test_a_bad_search_is_one_line_and_exit_code_2(workspace, retriever, capsys, argv, message):
    retriever.save_pretrained(workspace / "model")
    other = Rabtriever(retriever.teacher, retriever.predictor, "last")
    other.save_pretrained(workspace / "other")
    assert main(["index", "data", "--model", "model", "--out", "index"]) == 0
    capsys.readouterr()
    assert main(["search", "index", "rain", *argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_an_index_whose_model_moved_is_searched_with_it(workspace, retriever, capsys):
    retriever.save_pretrained(workspace / "model")
    assert main(["index", "data", "--model", "model", "--out", "index"]) == 0
    (workspace / "model").rename(workspace / "moved")
    assert main(["search", "index", "rain"]) == 2
    assert "is gone" in capsys.readouterr().err
    assert main(["search", "index", "rain", "--model", "moved"]) == 0


def test_an_index_is_brought_up_to_date_and_tells_about_itself(workspace, retriever, capsys):
    retriever.save_pretrained(workspace / "model")
    assert main(["index", "data", "--model", "model", "--out", "index"]) == 0
    lines = [{"_id": "lamp", "text": "a lantern"}, {"_id": "tuba", "text": "plays the tuba"}]
    (workspace / "more.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert answer(capsys, "index", "more.jsonl", "--out", "index", "--update", "--json")["documents"] == 7
    hits = answer(capsys, "search", "index", "rain", "--hybrid", "rrf", "--mode", "exact", "--json")["hits"]
    assert {hit["text"] for hit in hits if hit["id"] in ("lamp", "tuba")} == {"a lantern", "plays the tuba"}
    info = answer(capsys, "info", "index", "--json")
    assert info["documents"] == 7 and info["model"] == str(workspace / "model") and info["text_index"]
    versions = answer(capsys, "info", "index", "--versions", "--json")
    assert len(versions) == info["versions"] and versions[-1]["documents"] == 7
    assert main(["info", "index"]) == 0 and "documents       7" in capsys.readouterr().out


def test_a_malformed_corpus_leaves_no_index(workspace, retriever, capsys):
    retriever.save_pretrained(workspace / "model")
    with (workspace / "data" / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "weather", "text": "again"}\n')
    assert main(["index", "data", "--model", "model", "--out", "index"]) == 2
    assert "corpus.jsonl" in (error := capsys.readouterr().err) and "7" in error
    assert not (workspace / "index").exists()


def test_unknown_flags_exit_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["search", "--magic"])
    assert stop.value.code == 2


def test_help_does_not_wait_for_torch():
    code = """
import sys
from rabtriever.cli import main
try:
    main(["--help"])
except SystemExit:
    assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
