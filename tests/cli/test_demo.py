"""`rabtriever demo`: the built-in task, its report, and what to do next."""

import json

from rabtriever.cli import main


def test_demo_prints_quality_and_what_to_do_next(retriever, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    retriever.save_pretrained(tmp_path / "model")
    assert main(["demo", "--model", str(tmp_path / "model"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n_queries"] == 200 and set(report["systems"]) == {"retriever", "bm25"}
    assert report["systems"]["bm25"]["R@10"] == 0
    assert main(["demo", "--model", str(tmp_path / "model"), "--reranker"]) == 0
    out = capsys.readouterr().out
    assert out.count("BM25's pick") == 5 and "rabtriever train DATA" in out and "200 queries" in out
    assert "fidelity (retriever / reranker)" in out


def test_a_model_that_is_none_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["demo", "--model", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1]
