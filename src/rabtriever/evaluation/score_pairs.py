"""Scores of many pairs in a store, and the report that comes from some of them.

The pairs of the report are scored first: a run that is stopped has them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from typing_extensions import TypeIs

from rabtriever.data import RetrievalData
from rabtriever.encoders.base import Encoder
from rabtriever.errors import InputError, TextError
from rabtriever.evaluation.choice_mass import PROBED, check_choice_mass
from rabtriever.evaluation.judge import Candidates, make_report
from rabtriever.persistence.vectors import VECTORS_PER_FILE
from rabtriever.progress import bar
from rabtriever.rerankers.base import Reranker, Side
from rabtriever.rerankers.blocks import Outcome, distinct_pairs, make_blocks, readable, score_block
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.rerankers.remote.reranker import RemoteReranker
from rabtriever.rerankers.store import ScoreStore, StoredReranker, pair_key
from rabtriever.scoring.calibration import Calibration

PAIRS_PER_BLOCK = VECTORS_PER_FILE


class Probe(NamedTuple):
    """What is known of a reranker before it scores many pairs."""

    fingerprint: str
    numerics: str
    group_by: Side
    calibration: Calibration
    choice_mass: float | None


class Scorer(Protocol):
    """A reranker that scores blocks of pairs into a store, in this process or in others."""

    def probe(self, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray) -> Probe:
        """Looks at a few pairs; raises InputError for an LLM that does not choose between its two answers."""

    def score(
        self, store: ScoreStore, queries: Sequence[str], documents: Sequence[str], blocks: Sequence[np.ndarray]
    ) -> Iterator[tuple[int, Outcome]]:
        """Yields the position of each block when it is in the store, and what became of it."""

    def cost(self) -> float | None:
        """Returns what was paid so far; None of a reranker that costs nothing."""


class LocalScorer:
    """A reranker in this process."""

    def __init__(self, name: str, reranker: Reranker) -> None:
        self.name, self.reranker = name, reranker

    def probe(self, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray) -> Probe:
        """See :meth:`Scorer.probe`."""
        return probe_reranker(self.name, self.reranker, queries, documents, pairs)

    def score(
        self, store: ScoreStore, queries: Sequence[str], documents: Sequence[str], blocks: Sequence[np.ndarray]
    ) -> Iterator[tuple[int, Outcome]]:
        """See :meth:`Scorer.score`."""
        uri = store.prepare(self.reranker)
        for number, block in enumerate(blocks):
            outcome = score_block(self.reranker, uri, queries, documents, block)
            yield number, outcome
            if outcome.fault:
                return

    def cost(self) -> float | None:
        """See :meth:`Scorer.cost`."""
        return self.reranker.cost if isinstance(self.reranker, RemoteReranker) else None


def probe_reranker(
    name: str, reranker: Reranker, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray
) -> Probe:
    """See :meth:`Scorer.probe`."""
    mass = None
    if isinstance(reranker, GenerativeReranker):
        some = pairs[np.linspace(0, len(pairs) - 1, min(PROBED, len(pairs))).astype(int)]
        try:
            mass = check_choice_mass(name, reranker, queries, documents, some)
        except TextError:
            some = some[readable(reranker, queries, documents, some)]
            mass = check_choice_mass(name, reranker, queries, documents, some) if len(some) else None
    return Probe(reranker.fingerprint, reranker.numerics, reranker.group_by, reranker.calibration, mass)


def judge_into(
    store: ScoreStore,
    data: RetrievalData,
    candidates: Candidates,
    teachers: Mapping[str, Scorer | Encoder],
    pairs: np.ndarray,
    show_progress_bar: bool = False,
) -> dict[str, Any]:
    """Lets teachers that read pairs score them into a store, what it lacks; then reports on candidates.

    Args:
        store: Where scores are kept.
        data: Queries and documents.
        candidates: Of the report; their pairs are scored, too.
        teachers: Name -> scorer, or an encoder, which the report alone asks.
        pairs: int64 (n, 2) of positions in ``data.queries`` and ``data.documents``.
        show_progress_bar: Whether to show progress on stderr.

    Returns:
        The report of :func:`rabtriever.evaluation.judge.judge` and ``{"scores": {"uri", "pairs", "new", "failed":
        [{"teacher", "query", "document", "fault"}]}}``: pairs of different texts, those that one of the teachers scored
        now, and those that one cannot read. ``ms_per_pair`` and ``cost_per_pair`` are those of this run's new pairs.

    Raises:
        InputError: no teacher reads pairs, or one cannot go on: its server, its cost cap, the disk. What was scored is
            in the store.
    """
    query_ids, document_ids = list(data.queries), list(data.documents)
    queries, documents = list(data.queries.values()), candidates.sample.documents
    if not any(_is_scorer(teacher) for teacher in teachers.values()):
        raise InputError("--out: no teacher reads pairs, so there are no scores to keep; give an LLM or a reranker")
    position = {query: i for i, query in enumerate(query_ids)}
    sampled = np.array([position[query] for query in candidates.sample.ids])
    first = np.stack([sampled[candidates.pairs[:, 0]], candidates.pairs[:, 1]], axis=1)
    first = distinct_pairs(queries, documents, first)
    everything = distinct_pairs(queries, documents, np.concatenate([first, pairs]))
    of_report = set(map(tuple, first.tolist()))
    rest = everything[[pair not in of_report for pair in map(tuple, everything.tolist())]]
    judged: dict[str, Any] = {}
    n_new, failed = 0, []
    for name, teacher in teachers.items():
        if not _is_scorer(teacher):
            judged[name] = teacher
            continue
        judged[name], new, faults = _fill(teacher, store, queries, documents, (first, rest), show_progress_bar)
        n_new += new
        failed += [
            {"teacher": name, "query": query_ids[q], "document": document_ids[d], "fault": fault}
            for (q, d), fault in faults
        ]
    scores = {"uri": store.folder.uri, "pairs": len(everything), "new": n_new, "failed": failed}
    return {**make_report(candidates, judged, show_progress_bar), "scores": scores}


def _is_scorer(teacher: Scorer | Encoder) -> TypeIs[Scorer]:
    return hasattr(teacher, "probe")


def _fill(
    scorer: Scorer,
    store: ScoreStore,
    queries: Sequence[str],
    documents: Sequence[str],
    parts: Sequence[np.ndarray],
    show_progress_bar: bool,
) -> tuple[StoredReranker, int, list[tuple[tuple[int, int], str]]]:
    """Has the store hold all scores of the parts, one after the other.

    Returns:
        The stored reranker, how many scores are new, and pairs that cannot be read with their faults.
    """
    probe, started = scorer.probe(queries, documents, parts[0]), time.perf_counter()
    known, blocks = store.read(probe), []
    for part in parts:
        keys = (pair_key(queries[q], documents[d]) for q, d in part.tolist())
        missing = np.fromiter((not any(key in folder for folder in known) for key in keys), bool, len(part))
        blocks += make_blocks(part[missing], probe.group_by, PAIRS_PER_BLOCK)
    new, failed, fault, mass, answers = 0, [], "", 0.0, 0
    with bar(sum(map(len, blocks)), "scoring pairs", shown=show_progress_bar) as shown:
        for number, outcome in scorer.score(store, queries, documents, blocks) if blocks else ():
            new, mass, answers = new + outcome.new, mass + outcome.masses[0], answers + outcome.masses[1]
            failed += [((int(blocks[number][row][0]), int(blocks[number][row][1])), why) for row, why in outcome.failed]
            fault = fault or outcome.fault
            shown.update(len(blocks[number]))
    if fault:
        raise InputError(fault)
    cost = scorer.cost()
    costs = {
        "choice_mass": mass / answers if answers else probe.choice_mass,
        "ms_per_pair": 1000 * (time.perf_counter() - started) / new if new else None,
        "cost_per_pair": cost / new if new and cost is not None else None,
    }
    found = store.read(probe) if blocks else known
    return StoredReranker(probe.fingerprint, probe.calibration, found, costs), new, failed
