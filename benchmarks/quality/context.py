"""Does it help to tell a retriever what came before a request? Earlier turns, and steps that were done.

    python context.py --data FOLDER_OF_BEIR_FOLDERS [--jobs JOB ...]

Each job distils a predictor over MiniLM with the labels alone, once on queries of :func:`with_context` and once on the
bare requests, and compares R@1 over the same test queries. ``budgets`` compares budgets of the history, over ESConv's
development queries. A job writes into ``results/quality/context.json``, which keeps what others have written.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch

from rabtriever import Rabtriever, RetrievalData
from rabtriever.data import context
from rabtriever.data.context import DONE, with_context
from rabtriever.evaluation.measures import interval
from rabtriever.training.query_adapter import fit_regression

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.corpora import Bench, distil, hits, p_value  # noqa: E402
from record import machine  # noqa: E402

RESULT = Path(__file__).parents[1] / "results" / "quality" / "context.json"
BUDGETS = (0, 100, 200, 400, 800)  # characters of history


class Parts(NamedTuple):
    """A query of a data set, taken apart."""

    request: str
    history: list[str]
    used: list[str]


class Job(NamedTuple):
    """A data set, how to take its queries apart, and how to distil."""

    name: str
    parts: Callable[[str, dict[str, Any]], Parts]
    seeds: int
    options: dict[str, Any]


def steps_done(text: str, about: dict[str, Any]) -> Parts:
    """Takes ``Instruction: ...`` and ``Done so far: a; b`` apart; the first step has ``nothing`` done."""
    request, done = text.removeprefix("Instruction: ").split("\n" + DONE)
    return Parts(request, [], [] if done == "nothing" else done.split("; "))


def dialogue(text: str, about: dict[str, Any]) -> Parts:
    """Takes a dialogue apart, whose last line is the request; the first describes the situation."""
    *turns, last = text.split("\n")
    return Parts(last, turns, [])


def strategies(text: str, about: dict[str, Any]) -> Parts:
    """Takes the last line of a dialogue, its number, and the strategy of the supporter's turn before it."""
    return Parts(f"Turn {about['turn']}. {dialogue(text, about).request}", [], about["prev_strategies"][-1:])


JOBS = {
    "saycan_next": Job("saycan_next", steps_done, 3, {}),
    "esconv": Job("esconv", dialogue, 1, {}),
    "esconv_strategies": Job("esconv", strategies, 3, {"new_document_gain": 1.0}),
}


def take_apart(bench: Bench, job: Job, full: RetrievalData) -> dict[str, Parts]:
    """Returns the parts of each query."""
    about = metadata(bench, job)
    return {query: job.parts(text, about[query]) for query, text in full.queries.items()}


def metadata(bench: Bench, job: Job) -> dict[str, dict[str, Any]]:
    """Returns what the data set says about each query."""
    lines = (Path(bench.args.data) / job.name / "queries.jsonl").read_text().splitlines()
    return {row["_id"]: row.get("metadata", {}) for row in map(json.loads, lines)}


def run(bench: Bench, job: Job) -> dict[str, Any]:
    """Returns R@1 with and without context, over all test queries, and the p of the difference of their means.

    ``not trained`` is the predictor that learnt bare requests, asked with context.
    """
    full = bench.load(job.name)
    parts = take_apart(bench, job, full)
    texts = {
        "with": {query: with_context(*part) for query, part in parts.items()},
        "without": {query: part.request for query, part in parts.items()},
    }
    asked = replace(full, queries=texts["with"])
    found, result, not_trained = {}, {}, []
    for kind, queries in texts.items():
        data = replace(full, queries=queries)
        zero_shot = hits(Rabtriever(bench.model("minilm")), data, "test", None)
        runs = []
        for seed in range(job.seeds):
            retriever, about = distil(bench, data, "minilm", "labels", seed=seed, teacher_calls=0, **job.options)
            runs.append(hits(retriever, data, "test", None))
            if kind == "without":
                not_trained.append(hits(retriever, asked, "test", None).mean())
            print(job.name, kind, seed, runs[-1].mean(), f"{about['seconds']:.0f} s", flush=True)
        found[kind] = np.mean(runs, 0)
        result[kind] = {"R@1": found[kind].mean(), "interval": interval(found[kind].tolist())}
        result[kind] |= {
            "seeds": [one.mean() for one in runs],
            "zero_shot": zero_shot.mean(),
            "config": about["config"],
        }
    lengths = [len(texts["with"][query]) for query in full.labelled_queries("test")]
    difference = found["with"] - found["without"]
    result["difference"] = {"R@1": difference.mean(), "interval": interval(difference.tolist())}
    result["difference"]["p"] = p_value(found["with"], found["without"])
    result["not trained"] = {"R@1": np.mean(not_trained), "seeds": not_trained}
    return {"queries": len(difference), "characters": np.percentile(lengths, [50, 95, 100]).tolist(), **result}


def budgets(bench: Bench, job: Job) -> dict[str, Any]:
    """Returns R@1 over development queries for each budget of the history, of one seed."""
    full, result = bench.load(job.name), {}
    parts = take_apart(bench, job, full)
    for budget in BUDGETS:
        with patch.object(context, "MAX_HISTORY", budget):
            queries = {query: with_context(*part) for query, part in parts.items()}
        data = replace(full, queries=queries)
        retriever, _ = distil(bench, data, "minilm", "labels", seed=0, teacher_calls=0, **job.options)
        result[str(budget)] = hits(retriever, data, "dev", None).mean()
        print("budgets", budget, result[str(budget)], flush=True)
    return {"dev": result}


def without_text(bench: Bench, job: Job) -> dict[str, Any]:
    """Returns R@1 of a regression without text: over the turn and who spoke last; with the strategies before."""
    full = bench.load(job.name)
    ids = list(full.documents)
    titles = {document.title: row for row, document in enumerate(full.documents.values())}
    of, found = metadata(bench, job), {}
    x, y = {}, {}
    for split in ("train", "dev", "test"):
        positives = full.positives(split)
        x[split] = torch.tensor([counts(of[query], full.queries[query], titles) for query in positives])
        y[split] = torch.tensor([ids.index(first) for first, *_ in positives.values()])
    mean, scale = x["train"].mean(0), x["train"].std(0).clamp_min(1e-6)
    for name, columns in {"turn": slice(0, 6), "strategies": slice(None)}.items():
        z = {split: torch.cat([(v - mean) / scale, torch.ones(len(v), 1)], 1)[:, columns] for split, v in x.items()}
        fits = [regression(z, y, len(ids), penalty) for penalty in (1e-3, 1e-2, 1e-1)]
        found[name] = {"R@1": max(fits)[1]}  # by the development queries
    return found


def regression(z: dict[str, torch.Tensor], y: dict[str, torch.Tensor], n: int, penalty: float) -> tuple[float, float]:
    """Returns R@1 over development and test queries."""
    w = fit_regression(z["train"], torch.zeros(len(y["train"]), n), torch.eye(n)[y["train"]], penalty)
    dev, test = (float(((z[split] @ w).argmax(1) == y[split]).float().mean()) for split in ("dev", "test"))
    return dev, test


def counts(about: dict[str, Any], text: str, titles: dict[str, int]) -> list[float]:
    """Returns numbers of a dialogue, without its words: six of the turn, and those of the strategies before."""
    turn, last = about["turn"], text.rsplit("\n", 1)[-1]
    strategies = [0.0] * (4 * len(titles))
    before = [titles[title] for title in about["prev_strategies"]]
    for age, title in enumerate(before[::-1]):
        strategies[3 * len(titles) + title] += 1
        if age < 3:
            strategies[age * len(titles) + title] = 1.0
    starts = [float(turn < 3), float(turn < 6), float(turn > 20), float(turn > 30)]
    return [math.log1p(turn), *starts, float(last.startswith("Seeker")), *strategies]


WHAT = {name: partial(run, job=job) for name, job in JOBS.items()} | {
    "budgets": partial(budgets, job=JOBS["esconv"]),
    "esconv_counts": partial(without_text, job=JOBS["esconv"]),
}


def main() -> None:
    """Runs jobs and writes their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--jobs", nargs="+", choices=WHAT, default=list(WHAT))
    args = parser.parse_args()
    bench = Bench(args)
    for name in args.jobs:
        started = time.perf_counter()
        result = {**WHAT[name](bench), "seconds": time.perf_counter() - started, "machine": machine()}
        results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        RESULT.write_text(json.dumps({**results, name: result}, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
