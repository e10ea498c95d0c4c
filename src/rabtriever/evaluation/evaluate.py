"""Systems side by side on the same queries: quality, latency, and the retriever's agreement with the reranker."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabtriever.data import RetrievalData
from rabtriever.errors import InputError
from rabtriever.evaluation.measures import MAX_CUTOFF
from rabtriever.evaluation.results import STUDENT, TEACHER, Answer, Evaluation, SystemResult, is_compared, rank_scores
from rabtriever.evaluation.runs import run_file
from rabtriever.persistence.folder import absolute_path
from rabtriever.persistence.object_store import is_uri
from rabtriever.progress import track

if TYPE_CHECKING:
    from rabtriever.index import Hit

System = Callable[[list[str]], Any]  # of list[list[Hit]]: type checkers see one overload alone in a partial
"""Ranks documents for each query: returns ``list[list[Hit]]``, each best first; ``id``, ``log_odds`` and, in
reports, ``probability`` are read."""


def evaluate(
    data: RetrievalData,
    systems: Mapping[str, System],
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    runs_dir: str | Path | None = None,
    show_progress_bar: bool = False,
) -> dict[str, Any]:
    """Measures systems on the labelled queries of a split, one system after another, one query at a time.

    A system is any function from queries to hits, such as an index with its filters, approximation and reranker::

        evaluate(data, {"ours": index.search, "reranked": partial(index.search, rerank=10)})

    The order of its hits is its ranking. A query's own document, of the same id and the same text, is neither a hit nor
    relevant (BEIR's rule for ArguAna and Quora): let systems return one hit more than the ten that are measured.

    Latency is that of a query the system has not seen: the first query is run once before the clock starts, a text that
    occurs again is not timed, and the query cache behind an ``Index.search`` is cleared before each system's turn, so
    that the order of systems does not matter.

    Args:
        data: Corpus, queries and labels.
        systems: Name -> system. Those named ``retriever`` and ``reranker`` are also compared with each other.
        split: Which labels.
        limit: At most so many queries, drawn at random by ``seed``.
        seed: Of that draw.
        runs_dir: Folder for a TREC run of each system, ``<name>.trec``; all appear at the end or none. The scores of a
            query are its log-odds if these fall from hit to hit, otherwise (BM25, ties) minus the ranks, so that
            whoever sorts by score finds the system's order.
        show_progress_bar: Whether to show progress on stderr.

    Returns:
        ``{"n_queries": int, "own_documents_left_out": number of these queries that are documents of the corpus,
        "judged_documents_not_in_corpus": number of judgements of these queries that no system can meet,
        "timing": what ms_per_query contains, "systems": {name: {measure: value, ..., "R@1_interval": [low, high],
        "ms_per_query": float}},
        "fidelity": {measure: ratio retriever / reranker, None where the reranker has 0, ..., "top1_agreement": float,
        "pearson": float}}``; ``fidelity`` is empty without both a retriever and a reranker.

    Raises:
        InputError: no system, no such split, log-odds that are not finite, a document that comes twice or is not in the
            corpus, or an id that a TREC run cannot hold.
    """
    return evaluate_queries(data, systems, split, limit, seed, runs_dir, show_progress_bar).summary()


def evaluate_queries(
    data: RetrievalData,
    systems: Mapping[str, System],
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    runs_dir: str | Path | None = None,
    show_progress_bar: bool = False,
) -> Evaluation:
    """Returns what systems answered to each query; arguments and errors as in :func:`evaluate`."""
    queries = data.labelled_queries(split, limit, seed)
    if not systems:
        raise InputError("no system to evaluate: give at least one")
    qrels = {
        query: {d: grade for d, grade in data.qrels[split][query].items() if not data.is_own_document(query, d)}
        for query in queries
    }
    answers: dict[str, dict[str, Answer]] = {name: {} for name in systems}
    compared = {STUDENT, TEACHER} if is_compared(systems) else set()
    n_hits = 0
    with ExitStack() as stack:
        write = {name: stack.enter_context(run_file(_run_path(runs_dir, name), name)) for name in systems if runs_dir}
        for name, system in systems.items():
            for query, hits, seconds in _run_system(name, system, queries, show_progress_bar):
                hits = _checked_hits(hits, data, name, query)
                ranking = {hit.id: float(hit.log_odds) for hit in hits}
                if runs_dir:
                    write[name](query, _run_scores(ranking))
                # Only what the report looks at is held in memory; runs go to disk whole.
                held = ranking if name in compared else dict(islice(ranking.items(), MAX_CUTOFF))
                ranks = (rank for rank, hit in enumerate(hits, start=1) if qrels[query].get(hit.id, 0) > 0)
                probability = getattr(hits[0], "probability", None) if hits else None
                answers[name][query] = Answer(held, probability, next(ranks, None), seconds)
                n_hits = max(n_hits, len(ranking))
    results = {name: SystemResult(of_system, qrels) for name, of_system in answers.items()}
    return Evaluation(data, split, queries, qrels, results, n_hits, seed)


def _run_system(
    name: str, system: System, queries: Mapping[str, str], show_progress_bar: bool
) -> Iterator[tuple[str, Sequence[Hit], float | None]]:
    """Yields each query, its hits, and the seconds that they took if its text is new."""
    _clear_query_cache(system)
    system([next(iter(queries.values()))])  # whatever is compiled or opened at the first call
    _clear_query_cache(system)
    seen: set[str] = set()
    for query, text in track(queries.items(), name, shown=show_progress_bar):
        started = time.perf_counter()
        results = system([text])
        elapsed = time.perf_counter() - started
        if len(results) != 1:
            raise InputError(f"system {name!r} gave {len(results)} rankings for one query: return one for each")
        yield query, results[0], None if text in seen else elapsed
        seen.add(text)


def _clear_query_cache(system: Any) -> None:  # noqa: ANN401
    """Clears the caches of the retriever behind a bound method of an index, if that is what the system is."""
    while isinstance(system, partial):
        system = system.func
    retriever: Any = getattr(getattr(system, "__self__", None), "retriever", None)
    if hasattr(retriever, "clear_caches"):
        retriever.clear_caches()


def _checked_hits(hits: Sequence[Hit], data: RetrievalData, name: str, query: str) -> list[Hit]:
    """Returns the hits without the query's own document."""
    subject, seen = f"system {name!r}, query {query!r}: document", set()
    for hit in hits:
        if hit.id not in data.documents:
            raise InputError(f"{subject} {hit.id!r} is not in {data.name}: let it search the corpus it is measured on")
        if hit.id in seen:
            raise InputError(f"{subject} {hit.id!r} comes twice: rank it once")
        if not math.isfinite(hit.log_odds):
            raise InputError(f"{subject} {hit.id!r} has log-odds {hit.log_odds}: give finite ones")
        seen.add(hit.id)
    return [hit for hit in hits if not data.is_own_document(query, hit.id)]


def _run_scores(ranking: dict[str, float]) -> dict[str, float]:
    """Returns scores that sort to the ranking: its log-odds if they strictly fall, minus the ranks otherwise."""
    falling = all(better > worse for better, worse in pairwise(ranking.values()))
    return ranking if falling else rank_scores(ranking)


def _run_path(runs_dir: str | Path, name: str) -> str | Path:
    if Path(name).name != name:
        raise InputError(f"system {name!r} cannot name a run's file: rename it without slashes")
    if is_uri(runs_dir):
        return f"{str(runs_dir).rstrip('/')}/{name}.trec"
    folder = absolute_path(runs_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder for the runs")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.trec"
