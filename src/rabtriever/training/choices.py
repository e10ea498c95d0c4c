"""Feedback as :mod:`rabtriever.training.tune` reads it: embeddings of requests, in the order of time, and documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rabtriever.data.feedback import FeedbackEvent
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.examples import Examples, unit
from rabtriever.scoring.fusion import text_keys
from rabtriever.training.teacher_cache import TeacherCache

NEGATIVE = -0.25  # what a document counts that was shown above the chosen one
SIMILAR = 0.9  # cosine of requests that mean the same: what one chose is no negative of a later one
_KNOWN = "labels: nothing new; all are known from before"


@dataclass(frozen=True, eq=False)
class Choices:
    """Requests and the documents that were chosen, the oldest first; no request twice with one document.

    Attributes:
        states: float32 (n, H), the requests' embeddings.
        rows: Position in ``ids`` of each request's document.
        ids: Documents that were chosen or passed over.
        keys: int64 (m,), theirs.
        embeddings: float32 (m, H), theirs.
        passed: Positions in ``ids`` of the documents that were shown above the chosen one.
        skipped: Events that say nothing: of unknown documents, failed, or known before.
        until: Time of the newest; None if none has one.
    """

    states: np.ndarray
    rows: list[int]
    ids: list[str]
    keys: np.ndarray
    embeddings: np.ndarray
    passed: list[list[int]]
    skipped: int
    until: float | None

    def examples(self, before: Examples | None, negatives: bool) -> tuple[Examples, np.ndarray]:
        """Returns the examples of before and these, and how many of them are older than each request, int64 (n,)."""
        passed = [self._negatives(i) if negatives else [] for i in range(len(self.rows))]
        named = [[row, *of_query] for row, of_query in zip(self.rows, passed, strict=True)]
        new = Examples.of(self.states, named, self.keys, self.embeddings)
        new.counts[:] = np.concatenate([[1.0, *[NEGATIVE] * (len(of_query) - 1)] for of_query in named])
        sizes = np.cumsum([0, *map(len, named)])[:-1]
        return (new, sizes) if before is None else (before.joined(new), sizes + len(before))

    def _negatives(self, i: int) -> list[int]:
        """Returns the documents that a request passed over, without those that a similar one chose before it."""
        if not self.passed[i]:
            return []
        similar = self.states[:i] @ self.states[i] >= SIMILAR
        chosen = {row for row, near in zip(self.rows[:i], similar.tolist(), strict=True) if near}
        return [document for document in self.passed[i] if document not in chosen]


def read_choices(
    index: Index, retriever: Rabtriever, events: Sequence[FeedbackEvent], since: float | None = None
) -> Choices:
    """Reads events: a document that was chosen and succeeded counts, and those that were shown above it.

    Args:
        index: Has the documents.
        retriever: Its examples are known; its encoder reads requests of which no embedding was stored.
        events: In any order.
        since: Events of that time or before are known, too.

    Raises:
        InputError: no event names a document of the index, or all are known.
    """
    ordered = sorted(events, key=lambda event: event.time or 0.0)  # stable
    new = [event for event in ordered if since is None or event.time is None or event.time > since]
    wanted = dict.fromkeys(d for event in new for d in (event.id, *_above(event)) if d is not None)
    contents = {document.id: document.content for document in index.get(list(wanted))}
    used = [event for event in new if event.succeeded and event.id in contents]
    if not used and len(new) < len(events):
        raise InputError(_KNOWN)
    if not used:
        raise InputError("labels: none names a document of the index that was chosen and succeeded; check the ids")
    states, ids = _states(retriever, used), list(contents)
    position, keys = {document: row for row, document in enumerate(ids)}, text_keys(list(contents.values()))
    known, fresh = _remembered(retriever.examples), []
    for i, event in enumerate(used):
        identity = int(keys[position[str(event.id)]]), _key(states[i])
        if identity not in known:
            known.add(identity)
            fresh.append(i)
    if not fresh:
        raise InputError(_KNOWN)
    used = [used[i] for i in fresh]
    latents, found = index.latents(ids)
    order = [found.index(document) for document in ids] if found != ids else slice(None)
    embeddings = latents[order][:, : retriever.encoder.hidden_size] / np.sqrt(np.float32(retriever.fusion.beta))
    passed = [[position[d] for d in _above(event) if d in position] for event in used]
    rows = [position[str(event.id)] for event in used]
    times = [event.time for event in used if event.time is not None]
    skipped = len(events) - len(used)
    return Choices(states[fresh], rows, ids, keys, embeddings, passed, skipped, max(times, default=None))


def _above(event: FeedbackEvent) -> tuple[str, ...]:
    """Returns the documents that were shown above the chosen one."""
    return event.shown[: event.shown.index(event.id)] if event.id in event.shown else ()


def _states(retriever: Rabtriever, events: Sequence[FeedbackEvent]) -> np.ndarray:
    """Returns the requests' unit embeddings, float32 (n, H): those that were stored, and else of their texts."""
    texts = [event.query or "" for event in events if event.state is None]
    encoded = iter(TeacherCache(retriever.encoder).states("query", texts).numpy() if texts else ())
    return unit(np.stack([next(encoded) if event.state is None else event.state for event in events]))


def _remembered(examples: Examples | None) -> set[tuple[int, bytes]]:
    """Returns what identifies the examples that there are."""
    if examples is None:
        return set()
    keys = examples.keys[examples.documents].tolist()
    return {(key, _key(query)) for key, query in zip(keys, examples.queries, strict=True)}


def _key(state: np.ndarray) -> bytes:
    return state.astype(np.float16).tobytes()
