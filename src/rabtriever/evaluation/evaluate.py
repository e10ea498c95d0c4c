"""Systems side by side on the same queries: quality, latency, and the retriever's fidelity to the reranker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from rabtriever.data import RetrievalData, Run
from rabtriever.errors import InputError
from rabtriever.evaluation.agreement import Agreement
from rabtriever.evaluation.measures import DEPTH, measure
from rabtriever.evaluation.runs import ranked, run_file
from rabtriever.progress import Progress


class System(Protocol):
    """Whatever ranks the documents of one query."""

    def __call__(self, query: str) -> dict[str, float]:
        """Document id -> score of the documents it ranks, higher is better; retriever and reranker give log-odds."""


def evaluate(
    data: RetrievalData,
    systems: Mapping[str, System],
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    runs_dir: str | Path | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Measure systems on the judged queries of a split, one query at a time.

    Args:
        data: Corpus, queries and judgements.
        systems: Name -> system. Those named ``retriever`` and ``reranker`` are also held against each other.
        split: Which judgements.
        limit: At most so many queries, drawn at random.
        seed: Seed of that draw.
        runs_dir: Folder for a TREC run of each system, ``<name>.trec``; all appear at the end or none.
        show_progress: Count queries on stderr.

    Returns:
        ``{"n_queries": int, "systems": {name: {measure: value, ..., "ms_per_query": median wall time of one query}}}``
        and ``"fidelity"`` as told in ``Agreement.report``, empty without both a retriever and a reranker.

    Raises:
        InputError: No such split, a score that is not finite, a document that is not in the corpus, or an id that a
            TREC run cannot hold.
    """
    queries = data.labelled_queries(split, limit, seed)
    # Only what the measures look at is kept, so that memory does not grow with the corpus; runs go to disk whole.
    best: dict[str, Run] = {name: {} for name in systems}
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    fidelity = Agreement()
    with ExitStack() as stack:
        write = {name: stack.enter_context(run_file(_run_path(runs_dir, name), name)) for name in systems if runs_dir}
        progress = stack.enter_context(Progress("evaluating" if show_progress else None, len(queries)))
        for query, text in queries.items():
            scores = {}
            for name, system in systems.items():
                started = time.perf_counter()
                scores[name] = system(text)
                seconds[name].append(time.perf_counter() - started)
                best[name][query] = _best(scores[name], data, name, query)
                if runs_dir:
                    write[name](query, scores[name])
            if {"retriever", "reranker"} <= scores.keys():
                fidelity.add(scores["retriever"], scores["reranker"])
            progress.advance()
    qrels = {query: data.qrels[split][query] for query in queries}
    quality = {name: measure(qrels, run) for name, run in best.items()}
    return {
        "n_queries": len(queries),
        "systems": {name: quality[name] | {"ms_per_query": 1000 * median(seconds[name])} for name in systems},
        "fidelity": fidelity.report(quality["retriever"], quality["reranker"]) if fidelity.queries else {},
    }


def _best(scores: Mapping[str, float], data: RetrievalData, name: str, query: str) -> dict[str, float]:
    try:
        ranking = ranked(scores)
    except InputError as error:
        raise InputError(f"system {name!r}, query {query!r}: {error}") from None
    if unknown := scores.keys() - data.documents.keys():
        raise InputError(
            f"system {name!r} ranked document {min(unknown)!r}, which {data.name} does not have: "
            "let it search the corpus it is measured on"
        )
    return {document: float(scores[document]) for document in ranking[:DEPTH]}


def _run_path(runs_dir: str | Path, name: str) -> Path:
    folder = Path(runs_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder for the runs")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.trec"
