"""Evaluation: systems side by side, their report, their runs, and what goes wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tiny import make_retriever

from rabtriever.data import Document, RetrievalData
from rabtriever.errors import InputError
from rabtriever.evaluation import evaluate, measure, read_run
from rabtriever.evaluation.lexical import lexical_index
from rabtriever.index import Index

DATA = RetrievalData(
    "shop",
    {name: Document(name, text) for name, text in [("lamp", "gives light"), ("rope", "ties"), ("mop", "cleans")]},
    {"q1": "light please", "q2": "my dog runs away", "q3": "wet floor", "q4": "not labelled"},
    {"test": {"q1": {"lamp": 1}, "q2": {"rope": 1, "mop": 0}, "q3": {"mop": 1}}},
)
RETRIEVER = {"light please": {"lamp": 3.0, "rope": 1.0, "mop": -1.0}, "my dog runs away": {"lamp": 2.0, "rope": 1.0}}
RERANKER = {"light please": {"lamp": 6.0, "rope": 2.0}, "my dog runs away": {"rope": 2.0, "lamp": 1.0}}
OTHERWISE = {"mop": 1.0}
MEASURES = ("R@1", "R@3", "R@10", "MRR@10", "nDCG@10")


@dataclass
class Ranked:
    id: str
    log_odds: float


def make_system(ranking: Callable[[str], dict[str, float]]) -> Callable[[list[str]], list[list[Ranked]]]:
    """A system whose hits are a function of the query: document id -> log-odds, best first."""
    return lambda queries: [[Ranked(*item) for item in ranking(query).items()] for query in queries]


retriever = make_system(lambda query: RETRIEVER.get(query, OTHERWISE))
reranker = make_system(lambda query: RERANKER.get(query, OTHERWISE))
nothing = make_system(lambda query: {})


def test_systems_are_reported_side_by_side_with_fidelity() -> None:
    bm25 = partial(lexical_index(DATA.documents.values()).search, mode="bm25")
    report = evaluate(DATA, {"retriever": retriever, "reranker": reranker, "bm25": bm25})
    assert report["n_queries"] == 3 and report["own_documents_left_out"] == 0
    assert list(report["systems"]) == ["retriever", "reranker", "bm25"]
    assert all(system.pop("ms_per_query") > 0 for system in report["systems"].values())
    second = 1 / math.log2(3)
    intervals = {name: system.pop("R@1_interval") for name, system in report["systems"].items()}
    assert intervals["reranker"] == [1, 1] and intervals["retriever"][0] < 2 / 3 < intervals["retriever"][1]
    assert report["systems"]["retriever"] == pytest.approx(
        {"R@1": 2 / 3, "R@3": 1, "R@10": 1, "MRR@10": 2.5 / 3, "nDCG@10": (2 + second) / 3}
    )
    assert report["systems"]["reranker"] == dict.fromkeys(MEASURES, 1)
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
    fidelity = evaluate(DATA, {"retriever": retriever, "reranker": nothing})["fidelity"]
    assert fidelity == dict.fromkeys((*MEASURES, "pearson")) | {"top1_agreement": 0}


def test_only_labelled_queries_are_asked_one_at_a_time_after_a_warm_up() -> None:
    asked: list[list[str]] = []

    def system(queries: list[str]) -> list[list[Ranked]]:
        asked.append(queries)
        return [[]]

    evaluate(DATA, {"system": system})
    assert asked == [["light please"], ["light please"], ["my dog runs away"], ["wet floor"]]
    asked.clear()
    assert evaluate(DATA, {"system": system}, limit=2, seed=1)["n_queries"] == 2
    assert [query for [query] in asked[1:]] == list(DATA.labelled_queries("test", 2, 1).values())


def test_latency_is_the_median_of_new_queries_without_the_warm_up() -> None:
    data = RetrievalData("again", DATA.documents, {**DATA.queries, "q4": "light please", "q5": "light please"}, {})
    data.qrels["test"] = {query: {"mop": 1} for query in data.queries}
    naps = iter([0.5, 0.3, 0.0, 0.05, 0.5, 0.5])  # the first is the warm-up, the last two are a text seen before

    def system(queries: list[str]) -> list[list[Ranked]]:
        time.sleep(next(naps))
        return [[]]

    assert 50 <= evaluate(data, {"system": system})["systems"]["system"]["ms_per_query"] < 300


def test_the_order_of_systems_changes_nothing_and_no_query_comes_from_a_cache(
    reranker, tiny_data, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = make_retriever(reranker)  # its cache holds more than all queries
    index = Index.build(None, student, tiny_data.documents.values())
    encoded: list[str] = []
    encode_queries = student.encoder.encode_queries

    def counting(texts: list[str], *args: object) -> object:
        encoded.extend(texts)
        return encode_queries(texts, *args)

    monkeypatch.setattr(student.encoder, "encode_queries", counting)
    systems = {"retriever": index.search, "reranker": partial(index.search, rerank=6)}
    queries = list(tiny_data.labelled_queries("test").values())
    reports = []
    for names in (("retriever", "reranker"), ("reranker", "retriever")):
        encoded.clear()
        reports.append(evaluate(tiny_data, {name: systems[name] for name in names}))
        assert encoded == 2 * [queries[0], *queries]  # each system encodes every query, after the warm-up
    first, second = reports
    for name in systems:
        assert [first["systems"][name][m] for m in MEASURES] == [second["systems"][name][m] for m in MEASURES]
    assert first["fidelity"] == second["fidelity"]


ARGUMENTS = [
    "Homework helps pupils to learn.",
    "Homework steals pupils their time.",
    "Trams are quiet.",
    "No trams!",
]
DEBATE = RetrievalData(
    "debate",
    {f"arg{i}": Document(f"arg{i}", text) for i, text in enumerate(ARGUMENTS)},
    {f"arg{i}": text for i, text in enumerate(ARGUMENTS)},
    {"test": {f"arg{i}": {f"arg{i ^ 1}": 1, f"arg{i}": 1} for i in range(4)}},
)


def test_a_querys_own_document_is_neither_a_hit_nor_relevant_nor_in_a_run(tmp_path: Path) -> None:
    lexical = lexical_index(DEBATE.documents.values())
    systems = {"retriever": partial(lexical.search, mode="bm25"), "reranker": partial(lexical.search, mode="bm25")}
    for system in systems.values():  # it would be the first hit of each
        assert [hits[0].id for hits in system(ARGUMENTS)] == list(DEBATE.queries)
    report = evaluate(DEBATE, systems, runs_dir=tmp_path)
    assert report["own_documents_left_out"] == 4
    for values in report["systems"].values():
        assert [values[name] for name in MEASURES] == [1] * 5
    run = read_run(tmp_path / "retriever.trec")
    assert {query: list(scores) for query, scores in run.items()} == {f"arg{i}": [f"arg{i ^ 1}"] for i in range(4)}
    assert report["fidelity"]["top1_agreement"] == 1


def test_agreement_leaves_a_querys_own_document_out() -> None:
    own_first = make_system(lambda query: {f"arg{ARGUMENTS.index(query)}": 9.0, "arg0": 1.0} | {"arg1": 0.0})
    without = make_system(lambda query: {"arg0": 1.0, "arg1": 0.0})
    fidelity = evaluate(DEBATE, {"retriever": own_first, "reranker": without})["fidelity"]
    assert fidelity["top1_agreement"] == 1 and fidelity["pearson"] == pytest.approx(1)


def test_a_document_of_the_querys_id_and_another_text_is_a_hit() -> None:
    data = RetrievalData("ids", {"a": Document("a", "text")}, {"a": "a query"}, {"test": {"a": {"a": 1}}})
    report = evaluate(data, {"system": make_system(lambda query: {"a": 1.0})})
    assert report["own_documents_left_out"] == 0 and report["systems"]["system"]["R@1"] == 1


def test_runs_hold_every_log_odds_and_give_the_same_measures(tmp_path: Path) -> None:
    report = evaluate(DATA, {"retriever": retriever, "reranker": reranker}, runs_dir=tmp_path / "new" / "runs")
    assert sorted(path.name for path in (tmp_path / "new" / "runs").iterdir()) == ["reranker.trec", "retriever.trec"]
    run = read_run(tmp_path / "new" / "runs" / "retriever.trec")
    assert run == {query: RETRIEVER.get(DATA.queries[query], OTHERWISE) for query in ("q1", "q2", "q3")}
    values = measure(DATA.qrels["test"], run)
    assert values.items() <= report["systems"]["retriever"].items()


@pytest.mark.parametrize("log_odds", [[1.0, 1.0, 1.0], [0.0, 2.0, 1.0], [2.0, 0.0, 0.0]])
def test_the_order_of_hits_is_the_ranking_in_runs_too(tmp_path: Path, log_odds: list[float]) -> None:
    ids = ["mop", "lamp", "rope"]
    system = make_system(lambda query: dict(zip(ids, log_odds, strict=True)))
    report = evaluate(DATA, {"system": system}, runs_dir=tmp_path)
    assert report["systems"]["system"]["MRR@10"] == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    run = read_run(tmp_path / "system.trec")
    assert run["q1"] == {"mop": -1.0, "lamp": -2.0, "rope": -3.0}
    assert measure(DATA.qrels["test"], run).items() <= report["systems"]["system"].items()


def test_a_run_goes_deeper_than_the_measures(tmp_path: Path) -> None:
    documents = {f"d{i}": Document(f"d{i}", "text") for i in range(25)}
    data = RetrievalData("deep", documents, {"q": "text"}, {"test": {"q": {"d24": 1}}})
    system = make_system(lambda query: {name: -float(name[1:]) for name in documents})
    evaluate(data, {"system": system}, runs_dir=tmp_path)
    assert len(read_run(tmp_path / "system.trec")["q"]) == 25


@pytest.mark.parametrize(
    ("hits", "message"),
    [
        ([Ranked("lamp", math.nan)], r"system 'odd', query 'q3': document 'lamp' has log-odds nan"),
        ([Ranked("sofa", 1.0)], r"system 'odd', query 'q3': document 'sofa' is not in shop"),
        ([Ranked("lamp", 1.0), Ranked("lamp", 0.0)], r"system 'odd', query 'q3': document 'lamp' comes twice"),
    ],
)
def test_a_faulty_system_is_named_and_no_run_is_left(tmp_path: Path, hits: list[Ranked], message: str) -> None:
    def odd(queries: list[str]) -> list[list[Ranked]]:
        return [hits if query == "wet floor" else [Ranked("mop", 1.0)] for query in queries]

    with pytest.raises(InputError, match=message):
        evaluate(DATA, {"fine": retriever, "odd": odd}, runs_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_returns_hits_instead_of_a_list_for_each_query_is_an_error() -> None:
    with pytest.raises(InputError, match="'odd' gave 0 rankings for one query"):
        evaluate(DATA, {"odd": lambda queries: []})


def test_no_system_is_an_error() -> None:
    with pytest.raises(InputError, match="no system to evaluate"):
        evaluate(DATA, {})


def test_a_file_is_no_folder_for_runs(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="is a file: give a folder"):
        evaluate(DATA, {"retriever": retriever}, runs_dir=tmp_path / "runs")


@pytest.mark.parametrize("name", ["../retriever", "a/b"])
def test_a_system_whose_name_is_no_file_name_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot name a run's file"):
        evaluate(DATA, {name: retriever}, runs_dir=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_split_is_refused_before_any_system_is_asked() -> None:
    def never(queries: list[str]) -> list[list[Ranked]]:
        raise AssertionError(queries)

    with pytest.raises(InputError, match="no split 'dev'"):
        evaluate(DATA, {"never": never}, split="dev")


def test_data_and_evaluation_are_imported_without_models() -> None:
    code = (
        "import sys, rabtriever.data, rabtriever.evaluation\n"
        "print([name for name in ('torch', 'transformers', 'lancedb', 'ir_measures') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
