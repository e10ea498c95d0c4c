"""`rabtriever demo`: the built-in task, its report, and what to do next."""

import json

from rabtriever.cli import main


def test_demo_prints_quality_and_what_to_do_next(retriever, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    retriever.save_pretrained(tmp_path / "model")
    assert main(["demo", "--model", str(tmp_path / "model"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n_queries"] == 200 and list(report["systems"]) == ["bm25", "retriever", "rerank10"]
    assert report["systems"]["bm25"]["R@10"] == 0
    low, high = report["systems"]["rerank10"]["R@1_interval"]
    assert low <= report["systems"]["rerank10"]["R@1"] <= high and low < high
    assert main(["demo", "--model", str(tmp_path / "model")]) == 0
    out = capsys.readouterr().out
    assert out.count("BM25's pick") == 5 and "rabtriever distill CORPUS --queries" in out and "200 queries" in out


def test_over_an_encoder_the_encoder_is_shown_beside_it_and_an_untrained_one_has_no_reranker(
    sentence_folders, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    assert main(["demo", "--model", str(next(iter(sentence_folders.values()))), "--json"]) == 0
    systems = json.loads(capsys.readouterr().out)["systems"]
    assert list(systems) == ["bm25", "encoder", "retriever"]
    measures = [{k: v for k, v in systems[name].items() if k != "ms_per_query"} for name in ("encoder", "retriever")]
    assert measures[0] == measures[1]


def test_a_model_that_is_none_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["demo", "--model", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1]
