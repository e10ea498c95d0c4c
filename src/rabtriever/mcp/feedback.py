"""What searches led to, as feedback that ``rabtriever tune`` learns from."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import anyio
import numpy as np

from rabtriever.data import FeedbackEvent
from rabtriever.errors import first_line
from rabtriever.mcp.vectors import Vectors
from rabtriever.serving.feedback_mode import FeedbackMode

if TYPE_CHECKING:
    from rabtriever.retriever import Rabtriever

logger = logging.getLogger("rabtriever.mcp")

MAX_SESSIONS, MAX_SEARCHES = 1000, 20  # that are remembered: of all clients, of each
MAX_WAITING = 1000  # events that are not stored yet


@dataclass
class _Search:
    request: str
    shown: tuple[str, ...]
    called: set[str] = field(default_factory=set)


class Feedback:
    """A tool that is called in the same session after a search has shown it was chosen by that search.

    A search by name teaches nothing and is left out, as is one that no call followed.

    Args:
        mode: What is stored of a request.
        vectors: Its index is where events are stored, and its encoder gives the requests' embeddings.
    """

    def __init__(self, mode: FeedbackMode, vectors: Vectors) -> None:
        self._mode, self._vectors = mode, vectors
        self._sessions: OrderedDict[str, deque[_Search]] = OrderedDict()
        self._waiting: deque[FeedbackEvent] = deque(maxlen=MAX_WAITING)
        self._some = anyio.Event()

    def searched(self, session: str, request: str, shown: Sequence[str]) -> None:
        """Notes what a search has shown, best first."""
        searches = self._sessions.setdefault(session, deque(maxlen=MAX_SEARCHES))
        self._sessions.move_to_end(session)
        searches.append(_Search(request, tuple(shown)))
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def called(self, session: str, id: str, succeeded: bool) -> None:
        """Notes a call; of the searches that showed the tool, the latest led to it."""
        for search in reversed(self._sessions.get(session, ())):
            if id in search.shown:
                if id not in search.called:
                    search.called.add(id)
                    self._waiting.append(FeedbackEvent(search.request, id, search.shown, succeeded, time.time()))
                    self._some.set()
                return

    async def run(self) -> None:
        """Stores events as they come, until cancelled; what cannot be stored is lost, with a line in the log."""
        while True:
            await self._some.wait()
            self._some = anyio.Event()
            await anyio.to_thread.run_sync(self.store)

    def store(self) -> None:
        """Stores what waits, if the model is there."""
        if self._vectors.index is None or not self._waiting:
            return
        from rabtriever.index.feedback import FeedbackStore

        events = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            retriever = cast("Rabtriever", self._vectors.index.retriever)
            states = retriever.encoder.encode_queries([event.query or "" for event in events], None, False)
            kept = [self._mode.apply(*pair) for pair in zip(events, np.asarray(states, np.float16), strict=True)]
            FeedbackStore(self._vectors.index.table.uri).append(kept)
        except Exception as error:
            logger.warning("feedback of %d searches is lost (%s)", len(events), first_line(error))
