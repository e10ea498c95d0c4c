"""The report: its files agree with each other and with ir_measures, the page is whole and harmless."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from rabtriever.data import Document, RetrievalData
from rabtriever.errors import ConflictError, InputError
from rabtriever.evaluation import MEASURES, evaluate
from rabtriever.evaluation.evaluate import evaluate_queries
from rabtriever.evaluation.lexical import lexical_index
from rabtriever.evaluation.measures import calibration_error
from rabtriever.evaluation.provenance import describe_command, describe_data, describe_models
from rabtriever.evaluation.reliability import BINS, reliability, wilson
from rabtriever.evaluation.report import make_report, write_report
from rabtriever.index import Index

HOSTILE = '<script src="http://evil.example/x.js">alert(1)</script> & "quotes" \x00'


@dataclass
class Scored:
    id: str
    log_odds: float
    probability: float


def noisy(seed: int, data: RetrievalData, error: float) -> Any:
    """A system that puts the relevant document first but for some noise, with probabilities that say so."""
    rng, relevant = (
        np.random.default_rng(seed),
        {data.queries[q]: set(grades) for q, grades in data.qrels["test"].items()},
    )
    scores = {
        text: {d: (d in relevant[text]) * 2.0 + float(rng.normal(0, error)) for d in data.documents}
        for text in relevant
    }

    def search(texts: list[str]) -> list[list[Scored]]:
        hits = [sorted(scores[text].items(), key=lambda item: -item[1])[:20] for text in texts]
        return [[Scored(d, s, float(1 / (1 + np.exp(-s)))) for d, s in of_text] for of_text in hits]

    return search


@pytest.fixture(scope="module")
def data() -> RetrievalData:
    """60 queries over 30 documents, one of each hostile, some with two relevant documents."""
    documents = {f"d{i}": Document(f"d{i}", f"text {i}", metadata={"n": i}) for i in range(30)}
    documents["d3"] = Document("d3", HOSTILE)
    queries = {f"q{i}": f"request {i}" for i in range(60)} | {"q7": f"request 7 {HOSTILE}", "q8": "request 7"}
    qrels = {query: {f"d{i % 30}": 1} | ({"d1": 2} if i % 7 == 0 else {}) for i, query in enumerate(queries)}
    return RetrievalData("shop <b>", documents, queries, {"test": qrels, "train": {"q1": {"d1": 1}}})


@pytest.fixture(scope="module")
def systems(data: RetrievalData) -> dict[str, Any]:
    return {
        "bm25": partial(lexical_index(data.documents.values()).search, mode="bm25"),
        "retriever": noisy(1, data, 1.0),
        "reranker": noisy(2, data, 0.7),
        "<i>odd": noisy(3, data, 3.0),
    }


@pytest.fixture(scope="module")
def folder(data: RetrievalData, systems: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reports") / "report"
    write_report(place, data, systems, command="rabtriever evaluate 'a <b>'")
    return place


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Collects elements, texts and attributes; every element must be closed in order."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_all_files_are_there(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["queries.csv", "report.html", "report.json", "runs"]
    assert len(list((folder / "runs").iterdir())) == 4


def test_the_figures_are_those_of_evaluate(data, systems, report) -> None:  # noqa: ANN001
    found = evaluate(data, systems)
    for name, values in found["systems"].items():
        for measure in MEASURES:
            value = report["systems"][name]["measures"][measure]
            assert value["value"] == pytest.approx(values[measure])
            assert value["interval"][0] <= value["value"] <= value["interval"][1]
        assert report["systems"][name]["measures"]["R@1"]["interval"] == values["R@1_interval"]
        low, high = report["systems"][name]["ms_per_query"]["interval"]
        assert low <= report["systems"][name]["ms_per_query"]["value"] <= high
    assert report["student_and_teacher"]["fidelity"] == found["fidelity"]


def test_the_mean_of_each_column_is_the_reports(folder, report) -> None:  # noqa: ANN001
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (folder / "queries.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows[row["system"]].append(row)
    assert list(rows) == list(report["systems"])
    for name, of_system in rows.items():
        assert len(of_system) == report["n_queries"]
        for measure, value in report["systems"][name]["measures"].items():
            assert np.mean([float(row[measure]) for row in of_system]) == pytest.approx(value["value"])
        times = [float(row["ms"]) for row in of_system if row["ms"]]
        assert np.median(times) == pytest.approx(report["systems"][name]["ms_per_query"]["value"])
        for row in of_system:
            rank = int(row["first_relevant_rank"] or 0)
            assert float(row["MRR@10"]) == pytest.approx(1 / rank if 0 < rank <= 10 else 0)
            assert (row["first_hit_probability"] == "") == (name == "bm25" or not row["first_hit"])


def test_ir_measures_finds_the_same_in_the_runs(data, folder, report) -> None:  # noqa: ANN001
    for name, system in report["systems"].items():
        run = list(ir_measures.read_trec_run(str(folder / "runs" / f"{name}.trec")))
        wanted = {ir_measures.parse_measure(theirs): ours for ours, theirs in MEASURES.items()}
        found = ir_measures.calc_aggregate(list(wanted), data.qrels["test"], run)
        for measure, ours in wanted.items():
            assert found[measure] == pytest.approx(system["measures"][ours]["value"])


def test_the_page_is_whole_and_loads_nothing(folder, page) -> None:  # noqa: ANN001
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "\x00" not in text
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert not {name for name, _ in page.attributes} & {"src", "href", "xlink:href", "onload", "onclick"}
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style
    for scheme in ("http://", "https://"):  # only in the hostile text, which is text
        assert text.replace('&lt;script src="http://evil.example', "").count(scheme) == 0


def test_texts_and_names_are_escaped(page) -> None:  # noqa: ANN001
    shown = "".join(page.texts)
    assert HOSTILE.replace("\x00", "\ufffd") in shown
    assert "✗ <i>odd" in shown and "Evaluation on shop <b>" in shown and "evaluate 'a <b>'" in shown
    assert "i" not in page.tags


def test_the_page_can_be_read_without_eyes(page) -> None:  # noqa: ANN001
    assert page.tags.count("h1") == 1 and ("lang", "en") in page.attributes
    assert page.tags.count("caption") == page.tags.count("table") > 5
    charts = page.tags.count("svg")
    assert charts == page.tags.count("desc") == 2 + 1 + 3  # quality, student and teacher, reliability
    assert page.attributes.count(("role", "img")) == charts
    assert {("scope", "col"), ("scope", "row")} <= set(page.attributes)


def test_a_pair_is_compared_on_all_measures_with_a_correction(report) -> None:  # noqa: ANN001
    pairs = report["significance"]["pairs"]
    assert len(pairs) == 6 and report["significance"]["permutations"] == 10_000
    for pair in pairs:
        for measure, found in pair["measures"].items():
            a, b = (report["systems"][pair[side]]["measures"][measure]["value"] for side in ("a", "b"))
            assert found["difference"] == pytest.approx(a - b) and found["p"] <= found["p_holm"] <= 1
            assert found["interval"][0] <= found["difference"] <= found["interval"][1]


def test_reliability_is_that_of_first_hits(data, systems, report) -> None:  # noqa: ANN001
    assert report["systems"]["bm25"]["reliability"] is None  # its probabilities are all the same
    result = evaluate_queries(data, systems).systems["retriever"]
    found = reliability(result)
    assert found == report["systems"]["retriever"]["reliability"]
    answers = list(result.answers.values())
    probabilities = np.array([answer.probability for answer in answers])
    right = np.array([answer.relevant_rank == 1 for answer in answers])
    edges = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = [abs((probabilities[edges == i] - right[edges == i]).sum()) for i in range(BINS)]
    assert found["ece"] == pytest.approx(sum(gaps) / len(answers))
    assert sum(one["n"] for one in found["bins"]) == found["n"] == 60
    assert calibration_error(probabilities, right) > 0
    for one in found["bins"]:
        assert one["low"] <= one["mean_probability"] <= one["high"]
        assert one["interval"][0] <= one["share_relevant"] <= one["interval"][1]


def test_wilsons_interval_is_as_published() -> None:
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)


def test_disagreements_are_counted_and_every_kind_is_shown(report) -> None:  # noqa: ANN001
    found, n = report["disagreements"], len(report["systems"])
    assert len(found["counts"]) == n * (n - 1) and 0 < len(found["examples"]) <= 12
    for example in found["examples"]:
        assert 0 < len(example["right"]) < n
        relevant = {document["id"] for document in example["relevant"]}
        for name, answer in example["answers"].items():
            assert (answer["id"] in relevant) == (name in example["right"]) == (answer["relevant_rank"] == 1)
    first = [tuple(example["right"]) for example in found["examples"]]
    kinds = len(set(first))
    assert len(set(first[:kinds])) == kinds  # none has a second turn before all had their first


def test_student_and_teacher_are_counted_over_all_queries(report) -> None:  # noqa: ANN001
    found = report["student_and_teacher"]
    keys = ("both_right", "only_student_right", "only_teacher_right", "neither_right")
    assert sum(found[key] for key in keys) == report["n_queries"]
    assert 0 < len(found["pairs"]) <= 600 and any(pair["relevant"] for pair in found["pairs"])


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    systems = {name: {**one, "ms_per_query": None} for name, one in report["systems"].items()}
    return {**report, "systems": systems, "started": None, "seconds": None}


def test_the_same_seed_gives_the_same_report_but_for_times(data, systems, report, folder, tmp_path) -> None:  # noqa: ANN001
    write_report(tmp_path / "again", data, systems, command="rabtriever evaluate 'a <b>'")
    again = json.loads((tmp_path / "again" / "report.json").read_text(encoding="utf-8"))
    assert without_times(again) == without_times(report)
    for run in (folder / "runs").iterdir():
        assert run.read_bytes() == (tmp_path / "again" / "runs" / run.name).read_bytes()
    other = make_report(evaluate_queries(data, systems, seed=1))
    assert other["significance"] != report["significance"]


def test_one_system_without_probabilities_makes_a_page(data, tmp_path) -> None:  # noqa: ANN001
    index = lexical_index(data.documents.values())
    write_report(tmp_path / "one", data, {"bm25": partial(index.search, mode="bm25")}, limit=1)
    page = Page((tmp_path / "one" / "report.html").read_text(encoding="utf-8"))
    titles = [text for text in page.texts if text in ("Calibration", "Where systems disagree", "How to repeat it")]
    assert titles == ["How to repeat it"]


def test_nothing_is_left_of_a_report_that_fails(data, systems, tmp_path) -> None:  # noqa: ANN001
    def odd(texts: list[str]) -> list[list[Scored]]:
        return [[Scored("sofa", 1.0, 0.5)] for _ in texts]

    with pytest.raises(InputError, match="'sofa' is not in shop"):
        write_report(tmp_path / "report", data, {**systems, "odd": odd})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(ConflictError, match="full: exists already; give another folder or remove it"):
        write_report(tmp_path / "full", data, systems)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]


def test_the_digest_sees_every_part_of_the_data(data) -> None:  # noqa: ANN001
    def digest(**changed: Any) -> str:
        parts = {"documents": data.documents, "queries": data.queries, "qrels": data.qrels, **changed}
        return describe_data(RetrievalData(data.name, **parts), "test")["sha256"]

    digests = {
        digest(),
        digest(documents={**data.documents, "d1": Document("d1", "other")}),
        digest(documents={**data.documents, "d1": Document("d1", "text 1", metadata={"n": 2})}),
        digest(documents=dict(reversed(data.documents.items()))),
        digest(queries={**data.queries, "q1": "other"}),
        digest(qrels={**data.qrels, "train": {"q1": {"d1": 2}}}),
    }
    assert len(digests) == 6 and digest() in digests


def test_models_are_named_with_what_they_cut(retriever, tiny_data) -> None:  # noqa: ANN001
    texts = [document.content for document in tiny_data.documents.values()] + ["light lamp " * 40]
    queries = ["show music", "play song " * 30, "turn lamp " * 30]
    found = describe_models(queries, texts, retriever, retriever.reranker)
    assert found["retriever"]["fingerprint"] == retriever.fingerprint
    for model in ("encoder", "reranker"):  # the same LLM with 24 tokens for both
        assert found[model]["truncated"] == {"queries": 2, "documents": 1}
        assert len(found[model]["fingerprint"]) == 64 and "/" not in found[model]["name"]
    assert found["reranker"]["prompt_hash"] == retriever.reranker.describe()["prompt_hash"]
    assert describe_models(queries, texts, None, None) == {}


def test_an_index_of_a_retriever_is_reported(retriever, tiny_data, tmp_path) -> None:  # noqa: ANN001
    index = Index.build(None, retriever, tiny_data.documents.values())
    systems = {"retriever": index.search, "reranker": partial(index.search, rerank=6)}
    models = {"retriever": retriever, "reranker": retriever.reranker}
    summary = write_report(tmp_path / "report", tiny_data, systems, **models)
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert summary["n_queries"] == 4 and report["models"]["reranker"]["truncated"] == {"queries": 0, "documents": 0}
    assert report["hardware"]["cores"] >= 1 and report["versions"]["torch"]


def test_a_command_tells_no_whole_path():
    argv = ["rabtriever", "evaluate", "/home/me/my data", "--model=/srv/a=b/tools", "--report", "out/report"]
    argv += ["--systems", "bm25,rerank10", "--encoder", "owner/model"]
    written = "rabtriever evaluate 'my data' --model=tools --report out/report --systems bm25,rerank10 "
    assert describe_command(argv) == written + "--encoder owner/model"
