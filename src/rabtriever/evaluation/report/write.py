"""A report that a reviewer can check: figures with intervals, each query's result, the runs, and how to repeat it."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rabtriever.data import RetrievalData
from rabtriever.evaluation.disagreement import disagreements
from rabtriever.evaluation.evaluate import System, evaluate_queries
from rabtriever.evaluation.measures import MEASURES, interval
from rabtriever.evaluation.provenance import describe_data, describe_machine, describe_models
from rabtriever.evaluation.reliability import reliability
from rabtriever.evaluation.report.page import render
from rabtriever.evaluation.results import STUDENT, TEACHER, Evaluation, SystemResult
from rabtriever.evaluation.significance import PERMUTATIONS, compare_systems
from rabtriever.persistence.folder import atomic_folder

if TYPE_CHECKING:
    from rabtriever.rerankers.base import Reranker
    from rabtriever.retriever import Rabtriever

PLOTTED_PAIRS = 300  # relevant ones, and as many others


def write_report(
    folder: str | Path,
    data: RetrievalData,
    systems: Mapping[str, System],
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    *,
    retriever: Rabtriever | None = None,
    reranker: Reranker | None = None,
    command: str | None = None,
    show_progress_bar: bool = False,
) -> dict[str, Any]:
    """Evaluates systems and writes ``report.json``, ``report.html``, ``queries.csv`` and ``runs/<system>.trec``.

    Args:
        folder: To make, completely or not at all; it must not exist, or be empty.
        data: As of :func:`rabtriever.evaluation.evaluate`.
        systems: As there.
        split: As there.
        limit: As there.
        seed: Of the draw of queries, of the intervals and of the tests.
        retriever: Behind the systems, to describe it.
        reranker: Behind the systems, to describe it.
        command: Which repeats the report.
        show_progress_bar: Whether to show progress on stderr.

    Returns:
        What ``evaluate`` returns.

    Raises:
        ConflictError: ``folder`` is a file, or holds something.
        StorageError: ``folder`` cannot be made.
        InputError: As of ``evaluate``.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    with atomic_folder(folder) as place:
        evaluation = evaluate_queries(data, systems, split, limit, seed, place / "runs", show_progress_bar)
        documents = [document.content for document in data.documents.values()]
        report = {
            **make_report(evaluation, show_progress_bar),
            "data": describe_data(data, split),
            "models": describe_models(list(evaluation.queries.values()), documents, retriever, reranker),
            **describe_machine(),
            "command": command,
            "seed": seed,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 1),
        }
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
        (place / "report.json").write_text(text + "\n", encoding="utf-8")
        (place / "report.html").write_text(render(report), encoding="utf-8")
        _write_queries(place / "queries.csv", evaluation)
    return evaluation.summary()


def make_report(evaluation: Evaluation, show_progress_bar: bool = False) -> dict[str, Any]:
    """Returns, JSON-ready, what follows from the answers."""
    summary, seed = evaluation.summary(), evaluation.seed
    return {
        **{name: value for name, value in summary.items() if name not in ("systems", "fidelity")},
        "systems": {name: _system(one, seed) for name, one in evaluation.systems.items()},
        "significance": {
            "permutations": PERMUTATIONS,
            "seed": seed,
            "pairs": compare_systems(evaluation.systems, seed, show_progress_bar),
        },
        "student_and_teacher": _student_and_teacher(evaluation, summary["fidelity"]),
        "disagreements": disagreements(evaluation),
    }


def _system(system: SystemResult, seed: int) -> dict[str, Any]:
    def value(values: list[float], statistic: Any) -> dict[str, Any]:  # noqa: ANN401
        return {"value": float(statistic(values)), "interval": list(interval(values, seed, statistic))}

    return {
        "measures": {measure: value(system.values(measure), np.mean) for measure in MEASURES},
        "ms_per_query": value(system.milliseconds, np.median),
        "reliability": reliability(system),
    }


def _student_and_teacher(evaluation: Evaluation, fidelity: dict[str, float | None]) -> dict[str, Any] | None:
    """Returns fidelity, for how many queries each is right, and pairs of log-odds to plot; None without both."""
    if not fidelity:
        return None
    student, teacher = (evaluation.systems[name].answers for name in (STUDENT, TEACHER))
    right = [(student[q].relevant_rank == 1, teacher[q].relevant_rank == 1) for q in evaluation.queries]
    pairs = [
        (round(teacher[query].ranking[document], 3), round(log_odds, 3), evaluation.qrels[query].get(document, 0) > 0)
        for query, answer in student.items()
        for document, log_odds in answer.ranking.items()
        if document in teacher[query].ranking
    ]
    plotted, rng = [], np.random.default_rng(evaluation.seed)
    for of_kind in ([pair for pair in pairs if not pair[2]], [pair for pair in pairs if pair[2]]):
        chosen = rng.permutation(len(of_kind))[:PLOTTED_PAIRS]
        plotted += [of_kind[i] for i in sorted(chosen.tolist())]
    return {
        "fidelity": fidelity,
        "both_right": right.count((True, True)),
        "only_student_right": right.count((True, False)),
        "only_teacher_right": right.count((False, True)),
        "neither_right": right.count((False, False)),
        "n_pairs": len(pairs),
        "pairs": [{"teacher": x, "student": y, "relevant": is_relevant} for x, y, is_relevant in plotted],
    }


def _write_queries(path: Path, evaluation: Evaluation) -> None:
    """Writes one row for each query and system; empty is what there is not."""
    with path.open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file, lineterminator="\n").writerow
        write(["query", "system", *MEASURES, "first_relevant_rank", "first_hit", "first_hit_probability", "ms"])
        for query in evaluation.queries:
            for name, system in evaluation.systems.items():
                answer = system.answers[query]
                ms = None if answer.seconds is None else 1000 * answer.seconds
                probability = answer.probability if system.has_probabilities else None
                figures = [system.measures[query][measure] for measure in MEASURES]
                write([query, name, *figures, answer.relevant_rank, answer.first, probability, ms])
