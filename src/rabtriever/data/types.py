"""The few types that texts, judgements and rankings travel in."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rabtriever.errors import InputError

Qrels = dict[str, dict[str, int]]
"""Query id -> document id -> grade; a grade above 0 is a positive judgement."""

Run = dict[str, dict[str, float]]
"""Query id -> document id -> score; higher is better."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        id: Unique in its corpus.
        text: May be blank if the title is not.
        title: May be blank if the text is not.
        metadata: What a search can be filtered by; models never read it.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """What models and BM25 read: ``title: text``, or whichever of the two is there."""
        return ": ".join(part for part in (self.title, self.text) if part.strip())


@dataclass(frozen=True)
class RetrievalData:
    """A corpus, its queries and their judgements.

    Attributes:
        name: The folder's name.
        documents: Document id -> document, in corpus order.
        queries: Query id -> text, in file order; queries of all splits, judged or not.
        qrels: Split -> judgements; empty where there are none.
    """

    name: str
    documents: dict[str, Document]
    queries: dict[str, str]
    qrels: dict[str, Qrels]

    def judged(self, split: str, limit: int | None = None, seed: int = 0) -> dict[str, str]:
        """Queries with a positive judgement in a split.

        Args:
            split: Name of the judgements, such as ``test``.
            limit: At most so many queries, drawn at random; with one seed, a smaller sample is part of a larger one.
            seed: Seed of that draw.

        Returns:
            Query id -> text, in file order.

        Raises:
            InputError: There is no such split, no positive judgement in it, or ``limit`` is below 1.
        """
        if split not in self.qrels:
            there = f"it has {', '.join(self.qrels)}" if self.qrels else "it has no judgements at all"
            raise InputError(f"{self.name} has no split {split!r}: {there}")
        if limit is not None and limit < 1:
            raise InputError(f"a limit of {limit} leaves no query of {self.name}: give at least 1")
        qrels = self.qrels[split]
        judged = [query for query in self.queries if any(grade > 0 for grade in qrels.get(query, {}).values())]
        if not judged:
            raise InputError(f"split {split!r} of {self.name} has no query with a positive judgement: choose another")
        if limit is not None and limit < len(judged):
            # A prefix of one shuffle, not random.sample: this is what nests the samples.
            drawn = judged.copy()
            random.Random(seed).shuffle(drawn)
            kept = set(drawn[:limit])
            judged = [query for query in judged if query in kept]
        return {query: self.queries[query] for query in judged}

    def positives(self, split: str, limit: int | None = None, seed: int = 0) -> dict[str, list[str]]:
        """Query id -> its documents of a grade above 0; arguments and errors as in :meth:`judged`."""
        return {
            query: [document for document, grade in self.qrels[split][query].items() if grade > 0]
            for query in self.judged(split, limit, seed)
        }

    def with_dev(self) -> RetrievalData:
        """With a ``dev`` split: where there is none, every tenth train query is moved there, 500 at most.

        Teacher and student both train on what is left, so that what calibrates them was seen by neither.
        """
        if "dev" in self.qrels or "train" not in self.qrels:
            return self
        judged = list(self.judged("train"))
        held = set(judged[:: max(10, len(judged) // 500)]) if len(judged) > 1 else set()
        train = self.qrels["train"]
        rest = {query: grades for query, grades in train.items() if query not in held}
        return replace(
            self, qrels={**self.qrels, "train": rest, **({"dev": {q: train[q] for q in held}} if held else {})}
        )
