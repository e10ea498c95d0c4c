"""Feedback as :mod:`rabtriever.training.tune` reads it: embeddings of requests, in the order of time, and documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rabtriever.data.feedback import FeedbackEvent
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.examples import Examples
from rabtriever.scoring.fusion import text_keys
from rabtriever.training.teacher_cache import TeacherCache

NEGATIVE = -0.25  # what a document counts that was shown above the chosen one
SIMILAR = 0.9  # cosine of requests that mean the same: what one chose is no negative of the other


@dataclass(frozen=True, eq=False)
class Choices:
    """Requests and the documents that were chosen, the oldest first.

    Attributes:
        states: float32 (n, H), the requests' embeddings.
        rows: Position in ``ids`` of each request's document.
        ids: Documents that were chosen or passed over.
        keys: int64 (m,), theirs.
        embeddings: float32 (m, H), theirs.
        passed: Positions in ``ids`` of the documents that were shown above the chosen one.
        skipped: Events that say nothing: of unknown documents, failed, or known before.
    """

    states: np.ndarray
    rows: list[int]
    ids: list[str]
    keys: np.ndarray
    embeddings: np.ndarray
    passed: list[list[int]]
    skipped: int

    def examples(self, before: Examples | None, negatives: bool) -> tuple[Examples, np.ndarray]:
        """Returns the examples of before and these, and how many of them are older than each request, int64 (n,)."""
        passed = self._negatives() if negatives else [[] for _ in self.rows]
        named = [[row, *of_query] for row, of_query in zip(self.rows, passed, strict=True)]
        new = Examples.of(self.states, named, self.keys, self.embeddings)
        new.counts[:] = np.concatenate([[1.0, *[NEGATIVE] * (len(of_query) - 1)] for of_query in named])
        sizes = np.cumsum([0, *map(len, named)])[:-1]
        return (new, sizes) if before is None else (before.joined(new), sizes + len(before))

    def _negatives(self) -> list[list[int]]:
        """Returns the documents passed over, without those that a similar request chose."""
        unit = self.states / np.maximum(np.linalg.norm(self.states, axis=1, keepdims=True), 1e-12)
        chosen = np.array(self.rows)
        return [
            [d for d in of_query if not (unit[chosen == d] @ unit[i] >= SIMILAR).any()]
            for i, of_query in enumerate(self.passed)
        ]


def read_choices(index: Index, retriever: Rabtriever, events: Sequence[FeedbackEvent]) -> Choices:
    """Reads events: a document that was chosen and succeeded counts, and those that were shown above it.

    Raises:
        InputError: no event names a document of the index, or all are known.
    """
    ordered = sorted(events, key=lambda event: event.time or 0.0)  # stable
    wanted = dict.fromkeys(d for event in ordered for d in (event.id, *event.shown) if d is not None)
    contents = {document.id: document.content for document in index.get(list(wanted))}
    used = [event for event in ordered if event.succeeded and event.id in contents]
    if not used:
        raise InputError("tune: no label names a document of the index that was chosen and succeeded; check the ids")
    states, ids = _states(retriever, used), list(contents)
    position = {document: row for row, document in enumerate(ids)}
    keys, known = text_keys(list(contents.values())), _remembered(retriever.examples)
    fresh = [i for i, e in enumerate(used) if (keys[position[str(e.id)]], _key(states[i])) not in known]
    if not fresh:
        raise InputError("tune: nothing new; all labels are known from before")
    used = [used[i] for i in fresh]
    passed = [
        [position[d] for d in event.shown[: event.shown.index(event.id)] if d in position]
        if event.id in event.shown
        else []
        for event in used
    ]
    embeddings = TeacherCache(retriever.encoder).states("document", list(contents.values())).numpy()
    rows = [position[str(event.id)] for event in used]
    return Choices(states[fresh], rows, ids, keys, embeddings, passed, len(events) - len(used))


def _states(retriever: Rabtriever, events: Sequence[FeedbackEvent]) -> np.ndarray:
    """Returns the requests' embeddings, float32 (n, H): those that were stored, and else of their texts."""
    texts = [event.query or "" for event in events if event.state is None]
    encoded = iter(TeacherCache(retriever.encoder).states("query", texts).numpy() if texts else ())
    return np.stack([next(encoded) if e.state is None else e.state for e in events]).astype(np.float32)


def _remembered(examples: Examples | None) -> set[tuple[int, bytes]]:
    """Returns what identifies the examples that there are."""
    if examples is None:
        return set()
    return {(key, _key(q)) for key, q in zip(examples.keys[examples.documents], examples.queries, strict=True)}


def _key(state: np.ndarray) -> bytes:
    unit = state / max(float(np.linalg.norm(state)), 1e-12)
    return unit.astype(np.float16).tobytes()
