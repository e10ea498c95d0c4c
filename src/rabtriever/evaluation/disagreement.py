"""Where systems disagree: queries of which some find a relevant document first and others do not."""

from __future__ import annotations

from collections import defaultdict
from itertools import permutations, zip_longest
from typing import Any

from rabtriever.evaluation.results import Evaluation

EXAMPLES = 12


def disagreements(evaluation: Evaluation) -> dict[str, Any]:
    """Counts disagreements and chooses the most telling.

    Returns:
        ``{"n": queries, "counts": [{"right": name, "wrong": name, "n": queries}], "examples": [{"query": id, "text",
        "relevant": [{"id", "text"}], "right": [names], "answers": {name: {"id", "text", "probability",
        "relevant_rank"}}}]}``, at most 12 examples. Each kind, by which systems are right, has its turn, the rarest
        first; of one kind the most wrong first: those whose relevant document has the lowest rank, then those
        with the most probable wrong hit.
    """
    systems = evaluation.systems
    kinds: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for query in evaluation.queries:
        right = tuple(name for name, system in systems.items() if system.answers[query].relevant_rank == 1)
        if right and len(right) < len(systems):
            kinds[right].append(query)
    by_rarity = sorted(kinds.items(), key=lambda kind: len(kind[1]))
    turns = zip_longest(*(sorted(of_kind, key=lambda q: _how_wrong(evaluation, q)) for _, of_kind in by_rarity))
    chosen = [query for turn in turns for query in turn if query is not None][:EXAMPLES]
    return {
        "n": sum(map(len, kinds.values())),
        "counts": [
            {"right": a, "wrong": b, "n": sum(len(q) for right, q in kinds.items() if a in right and b not in right)}
            for a, b in permutations(systems, 2)
        ],
        "examples": [_example(evaluation, query) for query in chosen],
    }


def _how_wrong(evaluation: Evaluation, query: str) -> tuple[float, float]:
    """Returns what sorts the most wrong answers first."""
    wrong = [system.answers[query] for system in evaluation.systems.values()]
    wrong = [answer for answer in wrong if answer.relevant_rank != 1]
    return min(-(answer.relevant_rank or float("inf")) for answer in wrong), -max(a.probability or 0 for a in wrong)


def _example(evaluation: Evaluation, query: str) -> dict[str, Any]:
    documents, answers = evaluation.data.documents, {}
    for name, system in evaluation.systems.items():
        answer = system.answers[query]
        answers[name] = {
            "id": answer.first,
            "text": documents[answer.first].content if answer.first is not None else None,
            "probability": answer.probability if system.has_probabilities else None,
            "relevant_rank": answer.relevant_rank,
        }
    return {
        "query": query,
        "text": evaluation.queries[query],
        "relevant": [{"id": d, "text": documents[d].content} for d in evaluation.relevant(query)],
        "right": [name for name, answer in answers.items() if answer["relevant_rank"] == 1],
        "answers": answers,
    }
