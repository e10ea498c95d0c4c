"""Feedback of searches: checked, encoded and stored in groups."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rabtriever.data import FeedbackEvent
from rabtriever.errors import TextError
from rabtriever.index import Index
from rabtriever.index.feedback import FeedbackStore
from rabtriever.serving.errors import APIError
from rabtriever.serving.feedback_mode import FeedbackMode
from rabtriever.serving.metrics import Metrics
from rabtriever.serving.models import Models
from rabtriever.serving.workers import WorkerPool

MAX_GROUP_EVENTS = 1000  # stored together, or those of one request


@dataclass(eq=False)
class _Request:
    """A request's events, the tokens of each query, and the future that says when they are stored."""

    events: Sequence[FeedbackEvent]
    tokens: list[int]
    stored: asyncio.Future[None]

    def fail(self, error: Exception) -> None:
        """Answers it with an error, if its client still waits."""
        if not self.stored.done():
            self.stored.set_exception(error)


class FeedbackWriter:
    """Stores what came while others were stored as the next group, in one transaction, so that load makes few versions.

    A request's events are stored all or none. What is wrong with one request is no other's fault.
    """

    def __init__(self, index: Index, models: Models, mode: FeedbackMode, metrics: Metrics) -> None:
        self._existing_ids, self._store = index.table.existing_ids, FeedbackStore(index.table.uri)
        self._models, self._mode, self._metrics = models, mode, metrics
        self._pool = WorkerPool("feedback")
        self._waiting: list[_Request] = []
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, events: Sequence[FeedbackEvent]) -> None:
        """Returns when the events are on disk; all of them have a query.

        Raises:
            APIError: 422, an id that the index does not have.
            TextError: a query of zero tokens, or whose embedding is not finite.
            StorageError: the table cannot be written.
        """
        counts = await self._models.count_tokens("query", _queries(events))
        request = _Request(events, counts.used, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        await request.stored

    def close(self) -> None:
        """Ends the thread."""
        self._pool.close()

    async def _work(self) -> None:
        while self._waiting:
            group = self._next_group()
            try:
                await self._write(group)
            except Exception as error:
                for request in group:
                    request.fail(error)

    def _next_group(self) -> list[_Request]:
        group, size = list[_Request](), 0
        while self._waiting and (not group or size + len(self._waiting[0].events) <= MAX_GROUP_EVENTS):
            request = self._waiting.pop(0)
            if not request.stored.done():  # its client still waits
                group.append(request)
                size += len(request.events)
        return group

    async def _write(self, group: list[_Request]) -> None:
        states = await self._encode(group)
        group = [request for request in group if not request.stored.done()]
        with self._metrics.stages.labels("feedback").time():
            faults = await self._pool.run(self._commit, group, states)
        for request, fault in zip(group, faults, strict=True):
            if fault is not None:
                request.fail(fault)
            elif not request.stored.done():
                request.stored.set_result(None)

    async def _encode(self, group: Sequence[_Request]) -> dict[str, np.ndarray]:
        """Returns the embedding, float16 (H,), of each text; requests with one that has none are answered."""
        while True:
            going_on = [request for request in group if not request.stored.done()]
            sizes = dict[str, int]()
            for request in going_on:
                sizes |= zip(_queries(request.events), request.tokens, strict=True)
            texts = list(sizes)
            try:
                states = await self._models.encode_states(texts, list(sizes.values()))
                return dict(zip(texts, states.astype(np.float16), strict=True))
            except TextError as error:
                bad = texts[error.position]
                for request in going_on:
                    if bad in (queries := _queries(request.events)):
                        request.fail(error.at(queries.index(bad)))

    def _commit(self, group: Sequence[_Request], states: Mapping[str, np.ndarray]) -> list[APIError | None]:
        """Stores the events of a group's requests; returns what is wrong with each, which is not stored then."""
        named = {one for request in group for event in request.events for one in (event.id, *event.shown)}
        existing = self._existing_ids([one for one in named if one is not None])
        faults = [_fault(request.events, existing) for request in group]
        good = [request for request, fault in zip(group, faults, strict=True) if fault is None]
        events = [event for request in good for event in request.events]
        self._store.append([self._mode.apply(event, states[event.query or ""]) for event in events])
        return faults


def _queries(events: Sequence[FeedbackEvent]) -> list[str]:
    return [event.query or "" for event in events]


def _fault(events: Sequence[FeedbackEvent], existing: set[str]) -> APIError | None:
    """Returns what names the first id that the index does not have, if there is one."""
    for event in events:
        for field, ids in (("id", [event.id] if event.id is not None else []), ("shown", event.shown)):
            if missing := [one for one in ids if one not in existing]:
                return APIError(422, f"{field}: no document {missing[0]!r} in the index; leave it out", field)
    return None
