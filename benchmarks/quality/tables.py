"""The tables of docs/ and README.md, each from the committed result files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.names import FACTS, NEVER, OWN, SMALL, SYSTEMS, TITLES, TRAINED, UNSEEN  # noqa: E402
from quality.result_files import Results, number, p_value  # noqa: E402
from record import table  # noqa: E402


def compared(results: Results, systems: list[str], corpora: list[str], split: str, base: str, mean: bool) -> str:
    """Returns a table of R@1: a row for each system."""
    rows = []
    for system in systems:
        cells = [results.shown(system, corpus, split, base) for corpus in corpora]
        average = results.mean(system, corpora) if mean else None
        if any(cells):
            rows.append([SYSTEMS[system], *cells, *([number(average)] if mean else [])])
    return "\n".join(table(["R@1", *(TITLES[one] for one in corpora), *(["mean"] if mean else [])], rows))


def facts(results: Results) -> str:
    """Returns the table of nDCG@10 where queries and documents share a topic."""
    rows = []
    for system in ("bm25", "minilm", "mpnet", "gemma", "tools"):
        figures = [results.figure(system, corpus, "test", "nDCG@10") for corpus in FACTS]
        if any(figures):
            rows.append([SYSTEMS[system], *map(number, figures)])
    return "\n".join(table(["nDCG@10", *(TITLES[one] for one in FACTS)], rows))


def passages(results: Results) -> str:
    """Returns the table of BM25's passages, ranked anew."""
    rows = [
        [SYSTEMS[system], *(number(of[year]["nDCG@10"]) for year in ("dl19", "dl20"))]
        for system, of in results.passages.items()
    ]
    return "\n".join(table(["nDCG@10 of BM25's top 100", "DL19, 43 queries", "DL20, 54 queries"], rows))


def seeds(runs: list[dict[str, Any]]) -> str:
    """Returns the mean R@1 of the seeds, the least and the greatest."""
    recalls = [run["R@1"] for run in runs]
    return f"{number(sum(recalls) / len(recalls))} ({number(min(recalls))} to {number(max(recalls))})"


def policies(results: Results) -> str:
    """Returns the table of which pairs were read."""
    of = results.strong_teacher
    read = {"on-policy": of["losses"]["list, z* and squares"]["over the similarity"], **of["policies"]}
    rows = [[name, seeds(runs)] for name, runs in read.items()]
    return "\n".join(table(["pairs read", "R@1, mean of the seeds (least to greatest)"], rows))


def losses(results: Results) -> str:
    """Returns the table of what a predictor learns by each loss, over MiniLM's similarity and without it."""
    found = results.strong_teacher["losses"]

    def hits(loss: str) -> np.ndarray:
        return np.mean([run["of_query"] for run in found[loss]["over the similarity"]], axis=0)

    rows = [
        [loss, seeds(of["over the similarity"]), number(p_value(hits(loss), hits("list"))), seeds(of["without it"])]
        for loss, of in found.items()
    ]
    head = ["R@1, mean of the seeds (least to greatest)", "over MiniLM's similarity", "p against list", "without it"]
    return "\n".join(table(head, rows))


def latency(results: Results) -> str:
    """Returns the table of milliseconds a query."""
    rows = [[SYSTEMS.get(name, name), f"{value:.1f}"] for name, value in results.latency["ms"].items()]
    return "\n".join(table(["one query alone", "ms"], rows))


def first_hits(results: Results) -> str:
    """Returns the table of the first hit's probability."""
    named = {"tools": "`tools`", "own": "ours on MiniLM, labels", "reranked": "`tools`, the best 10 reranked"}
    rows = [
        [named[kind], TITLES[name], *(number(of[key]) for key in ("mean_probability", "right", "calibration_error"))]
        for kind, report in results.first_hit.items()
        for name, of in report.items()
    ]
    return "\n".join(table(["first hits of", "corpus", "mean probability", "right", "calibration error"], rows))


def cost(results: Results) -> str:
    """Returns the table of minutes on a core of what was trained here, and of dollars for teachers elsewhere."""
    rows = []
    for system in TRAINED:
        files = [results.systems.get((system, corpus)) for corpus in OWN]
        rows.append(
            [SYSTEMS[system] + ", minutes", *("" if of is None else f"{of['seconds'] / 60:.0f}" for of in files)]
        )
    dollars = [results.cost["corpora"][corpus]["dollars"] for corpus in OWN]
    rows += [[f"{kind}, dollars", *(f"{of[kind]:.2f}" for of in dollars)] for kind in dollars[0]]
    return "\n".join(table(["", *(TITLES[corpus] for corpus in OWN)], rows))


def promise(results: Results) -> str:
    """Returns the table of what ``refuse=0.05`` refuses."""
    rows = [
        [TITLES[name], int(of["held out"]), int(of["n_queries"]), number(of["refused"])]
        for name, of in results.no_answer["promise"].items()
    ]
    head = ["`refuse=0.05`, ours on MiniLM with labels", "held out", "test queries", "refused of them"]
    return "\n".join(table(head, rows))


def learning(results: Results) -> str:
    """Returns the table of R@1 after so many choices."""
    rows = []
    for name in OWN:
        steps = results.learning[name]
        recalls = [number(steps[0]["before"]), *(number(step["after"]) for step in steps)]
        rows.append([TITLES[name], *recalls, f"{steps[-1]['seconds']:.0f}"])
    counts = [f"{step['labels']:,}" for step in results.learning[OWN[0]]]
    return "\n".join(table(["choices", "none", *counts, "seconds"], rows))


def streams(results: Results) -> str:
    """Returns the table of versions that were taken, and of those that were worse."""
    rows = []
    for name in OWN:
        of = results.streams[name]
        recalls = [number(of[key]) for key in ("start", "end", "least_end")]
        rows.append([TITLES[name], of["streams"], of["taken"], of["worse"], *recalls])
    head = ["corpus", "streams", "versions taken", "worse than before", "R@1 at the start", "at the end, mean", "least"]
    return "\n".join(table(head, rows))


def out_of_scope(results: Results) -> str:
    """Returns the table of how requests out of scope are told apart."""
    columns = ["AUROC", "AUROC of the margin", "refused", "caught", "caught at as many refused"]
    named = {"ours": "**ours on MiniLM**, labels", "ours on gemma": SYSTEMS["ours-gemma-labels"]}
    rows = [
        [named.get(name, SYSTEMS.get(name, name)), *(number(of.get(column)) for column in columns)]
        for name, of in results.no_answer["out of scope"].items()
    ]
    return "\n".join(table(["CLINC150", *columns], rows))


def context(results: Results) -> str:
    """Returns the table of what came before a request, in its query or not."""
    rows = []
    for name, of in results.context.items():
        if "with" in of:
            low, high = (f"{value:+.3f}" for value in of["difference"]["interval"])
            p = "< .001" if of["difference"]["p"] < 0.001 else number(of["difference"]["p"])
            shares = [of["without"]["R@1"], of["with"]["R@1"]]
            encoder = [of["without"]["zero_shot"], of["with"]["zero_shot"], of["not trained"]["R@1"]]
            rows.append(
                [TITLES[name], of["queries"], *map(number, shares), f"{low} to {high}", p, *map(number, encoder)]
            )
    head = ["R@1", "queries", "without", "with context", "difference", "p"]
    return "\n".join(table([*head, "MiniLM, without", "MiniLM, with", "learnt without, asked with"], rows))


def history(results: Results) -> str:
    """Returns the table of how much history a query holds."""
    found = results.context["budgets"]["dev"]
    return "\n".join(table(["characters of history, at most", *found], [["R@1", *map(number, found.values())]]))


KNOWN = ["minilm", "mpnet", "gemma", "tools", "tools-rerank10"]
TABLES: dict[str, Callable[[Results], str]] = {
    "own": lambda r: compared(r, [s for s in SYSTEMS if not s.startswith("tools")], OWN, "test", "minilm", True),
    "never": lambda r: compared(r, ["bm25", *KNOWN], NEVER, "test", "minilm", True),
    "unseen": lambda r: compared(r, list(SYSTEMS), UNSEEN, "test_unseen", "minilm", False),
    "small": lambda r: compared(r, list(SYSTEMS), SMALL, "test", "minilm", False),
    "facts": facts,
    "passages": passages,
    "losses": losses,
    "policies": policies,
    "latency": latency,
    "first-hit": first_hits,
    "cost": cost,
    "promise": promise,
    "out-of-scope": out_of_scope,
    "learning": learning,
    "streams": streams,
    "context": context,
    "history": history,
}
