"""What systems answered to each query, and the summary that follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from rabtriever.data import Qrels, RetrievalData, Run
from rabtriever.evaluation.measures import MEASURES, agreement, interval, mean_measures, measure_queries

TIMING = "median of new queries, one at a time, encoding included; no query cached, documents' caches warm"
STUDENT, TEACHER = "retriever", "reranker"  # the systems that are compared with each other


class Answer(NamedTuple):
    """What a system gave for one query; the query's own document is in none of it.

    Attributes:
        ranking: Document id -> log-odds, best first; the first ten, or all of a system that is compared with another.
        probability: Of the first hit; None without a hit or a probability.
        relevant_rank: Rank of the first relevant document among all hits, from 1; None if there is none.
        seconds: None if the query's text was asked before.
    """

    ranking: dict[str, float]
    probability: float | None
    relevant_rank: int | None
    seconds: float | None

    @property
    def first(self) -> str | None:
        """Id of the first hit."""
        return next(iter(self.ranking), None)


class SystemResult:
    """All answers of a system, and their measures.

    Attributes:
        answers: Query id -> answer.
        measures: Query id -> measure -> value.
    """

    def __init__(self, answers: dict[str, Answer], qrels: Qrels) -> None:
        self.answers = answers
        # Ranks, not scores: the order of hits is the ranking, ties included.
        self.measures = measure_queries(qrels, {query: rank_scores(one.ranking) for query, one in answers.items()})

    @property
    def run(self) -> Run:
        """Query id -> document id -> log-odds, best first."""
        return {query: answer.ranking for query, answer in self.answers.items()}

    @property
    def milliseconds(self) -> list[float]:
        """Of each query whose text was new."""
        return [1000 * answer.seconds for answer in self.answers.values() if answer.seconds is not None]

    @property
    def has_probabilities(self) -> bool:
        """Whether the first hits' probabilities tell queries apart: BM25's are all the same."""
        return len({answer.probability for answer in self.answers.values()} - {None}) > 1

    def values(self, measure: str) -> list[float]:
        """Returns a measure of each query, in the order of the queries."""
        return [row[measure] for row in self.measures.values()]


@dataclass(frozen=True)
class Evaluation:
    """Systems side by side on the same queries.

    Attributes:
        data: What was measured on.
        split: Which labels.
        queries: Query id -> text.
        qrels: Query id -> document id -> grade, without a query's own document.
        systems: Name -> result.
        n_hits: The most that a system returned for a query.
        seed: Of the draw of queries, and of everything that is drawn later.
    """

    data: RetrievalData
    split: str
    queries: dict[str, str]
    qrels: Qrels
    systems: dict[str, SystemResult]
    n_hits: int
    seed: int

    def summary(self) -> dict[str, Any]:
        """Returns what :func:`rabtriever.evaluation.evaluate` returns."""
        quality = {name: mean_measures(system.measures) for name, system in self.systems.items()}
        return {
            "n_queries": len(self.queries),
            "own_documents_left_out": sum(self.data.is_own_document(query, query) for query in self.queries),
            "judged_documents_not_in_corpus": sum(
                document not in self.data.documents for grades in self.qrels.values() for document in grades
            ),
            "timing": f"{TIMING}; at most {self.n_hits} hits",
            "systems": {
                name: {
                    **quality[name],
                    "R@1_interval": list(interval(system.values("R@1"))),
                    "ms_per_query": median(system.milliseconds),
                }
                for name, system in self.systems.items()
            },
            "fidelity": self._fidelity(quality),
        }

    def relevant(self, query: str) -> list[str]:
        """Returns the relevant documents of a query that the corpus has, the highest grades first."""
        grades = self.qrels[query]
        found = [document for document, grade in grades.items() if grade > 0 and document in self.data.documents]
        return sorted(found, key=lambda document: -grades[document])

    def _fidelity(self, quality: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
        """Returns the student's measures over the teacher's, and how far their rankings agree; empty without both."""
        if not is_compared(self.systems):
            return {}
        pairs = {name: (quality[STUDENT][name], quality[TEACHER][name]) for name in MEASURES}
        ratios = {name: value / reference if reference else None for name, (value, reference) in pairs.items()}
        return {**ratios, **agreement(self.systems[STUDENT].run, self.systems[TEACHER].run)}


def is_compared(systems: Iterable[str]) -> bool:
    """Returns whether both student and teacher are among the systems."""
    return {STUDENT, TEACHER} <= set(systems)


def rank_scores(ids: Iterable[str]) -> dict[str, float]:
    """Returns scores that sort to the order of the ids."""
    return {document: -float(rank) for rank, document in enumerate(ids, start=1)}
