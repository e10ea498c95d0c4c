"""Evaluation: systems side by side, their report, their runs, and what goes wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rabtriever.data import Document, RetrievalData
from rabtriever.errors import InputError
from rabtriever.evaluation import BM25, evaluate, measure, read_run

DATA = RetrievalData(
    "shop",
    {name: Document(name, text) for name, text in [("lamp", "gives light"), ("rope", "ties"), ("mop", "cleans")]},
    {"q1": "light please", "q2": "my dog runs away", "q3": "wet floor", "q4": "not judged"},
    {"test": {"q1": {"lamp": 1}, "q2": {"rope": 1, "mop": 0}, "q3": {"mop": 1}}},
)
RETRIEVER = {"light please": {"lamp": 3.0, "rope": 1.0, "mop": -1.0}, "my dog runs away": {"lamp": 2.0, "rope": 1.0}}
RERANKER = {"light please": {"lamp": 6.0, "rope": 2.0}, "my dog runs away": {"rope": 2.0, "lamp": 1.0}}
OTHERWISE = {"mop": 1.0}


def retriever(query: str) -> dict[str, float]:
    return RETRIEVER.get(query, OTHERWISE)


def reranker(query: str) -> dict[str, float]:
    return RERANKER.get(query, OTHERWISE)


def test_systems_are_reported_side_by_side_with_fidelity() -> None:
    report = evaluate(DATA, {"retriever": retriever, "reranker": reranker, "bm25": BM25(DATA.documents.values())})
    assert report["n_queries"] == 3
    assert list(report["systems"]) == ["retriever", "reranker", "bm25"]
    assert all(system.pop("ms_per_query") > 0 for system in report["systems"].values())
    second = 1 / math.log2(3)
    assert report["systems"]["retriever"] == pytest.approx(
        {"R@1": 2 / 3, "R@3": 1, "R@10": 1, "MRR@10": 2.5 / 3, "nDCG@10": (2 + second) / 3}
    )
    assert report["systems"]["reranker"] == dict.fromkeys(("R@1", "R@3", "R@10", "MRR@10", "nDCG@10"), 1)
    assert report["systems"]["bm25"]["R@10"] == pytest.approx(1 / 3)
    assert report["fidelity"] == pytest.approx(
        {
            **{"R@1": 2 / 3, "R@3": 1, "R@10": 1, "MRR@10": 2.5 / 3, "nDCG@10": (2 + second) / 3},
            "top1_agreement": 2 / 3,
            # Pairs (3, 6), (1, 2), (2, 1), (1, 2), (1, 1): sums of products of deviations 5.8, 3.2 and 17.2.
            "pearson": 5.8 / (3.2 * 17.2) ** 0.5,
        }
    )
    json.dumps(report, allow_nan=False)


def test_fidelity_needs_both_retriever_and_reranker() -> None:
    assert evaluate(DATA, {"retriever": retriever, "bm25": reranker})["fidelity"] == {}


def test_fidelity_to_a_reranker_that_finds_nothing_has_no_ratio() -> None:
    fidelity = evaluate(DATA, {"retriever": retriever, "reranker": lambda query: {}})["fidelity"]
    assert fidelity == dict.fromkeys(("R@1", "R@3", "R@10", "MRR@10", "nDCG@10", "pearson")) | {"top1_agreement": 0}


def test_only_judged_queries_are_asked_once_and_in_order() -> None:
    asked: list[str] = []

    def system(query: str) -> dict[str, float]:
        asked.append(query)
        return {}

    evaluate(DATA, {"system": system})
    assert asked == ["light please", "my dog runs away", "wet floor"]
    asked.clear()
    assert evaluate(DATA, {"system": system}, limit=2, seed=1)["n_queries"] == 2
    assert asked == list(DATA.labelled_queries("test", 2, 1).values())


def test_latency_is_the_median_of_one_query() -> None:
    naps = iter([0.3, 0.0, 0.05])

    def system(query: str) -> dict[str, float]:
        time.sleep(next(naps))
        return {}

    assert 50 <= evaluate(DATA, {"system": system})["systems"]["system"]["ms_per_query"] < 300


def test_runs_hold_every_score_and_give_the_same_measures(tmp_path: Path) -> None:
    report = evaluate(DATA, {"retriever": retriever, "reranker": reranker}, runs_dir=tmp_path / "new" / "runs")
    assert sorted(path.name for path in (tmp_path / "new" / "runs").iterdir()) == ["reranker.trec", "retriever.trec"]
    run = read_run(tmp_path / "new" / "runs" / "retriever.trec")
    assert run == {query: retriever(DATA.queries[query]) for query in ("q1", "q2", "q3")}
    values = measure(DATA.qrels["test"], run)
    assert values.items() <= report["systems"]["retriever"].items()


def test_a_run_goes_deeper_than_the_measures(tmp_path: Path) -> None:
    documents = {f"d{i}": Document(f"d{i}", "text") for i in range(25)}
    data = RetrievalData("deep", documents, {"q": "text"}, {"test": {"q": {"d24": 1}}})
    evaluate(data, {"system": lambda query: {name: -float(name[1:]) for name in documents}}, runs_dir=tmp_path)
    assert len(read_run(tmp_path / "system.trec")["q"]) == 25


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"lamp": math.nan}, r"system 'odd', query 'q3': the score of document 'lamp' is nan"),
        ({"sofa": 1.0}, r"system 'odd' ranked document 'sofa', which shop does not have"),
    ],
)
def test_a_faulty_system_is_named_and_no_run_is_left(tmp_path: Path, scores: dict[str, float], message: str) -> None:
    def odd(query: str) -> dict[str, float]:
        return scores if query == "wet floor" else OTHERWISE

    with pytest.raises(InputError, match=message):
        evaluate(DATA, {"fine": retriever, "odd": odd}, runs_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder_for_runs(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="is a file: give a folder"):
        evaluate(DATA, {"retriever": retriever}, runs_dir=tmp_path / "runs")


def test_an_unknown_split_is_refused_before_any_system_is_asked() -> None:
    def never(query: str) -> dict[str, float]:
        raise AssertionError(query)

    with pytest.raises(InputError, match="no split 'dev'"):
        evaluate(DATA, {"never": never}, split="dev")


def test_data_and_evaluation_are_imported_without_models() -> None:
    code = (
        "import sys, rabtriever.data, rabtriever.evaluation\n"
        "print([name for name in ('torch', 'transformers', 'lancedb', 'bm25s', 'ir_measures') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
