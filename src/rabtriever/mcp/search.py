"""Finds tools for a request: by name first, then by the retriever, and by words where it has no vectors yet."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Literal

from rabtriever.errors import first_line
from rabtriever.mcp.catalogue import Tool
from rabtriever.mcp.vectors import Vectors
from rabtriever.mcp.words import Words

if TYPE_CHECKING:
    from rabtriever.index.hits import Hit

logger = logging.getLogger("rabtriever.mcp")

Match = Literal["name", "meaning", "words"]


@dataclass(frozen=True)
class Found:
    """A tool that was found: what by, and, if by its meaning, how probable it is."""

    tool: Tool
    match: Match
    probability: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a search found.

    Attributes:
        found: Tools, best first.
        fits: Whether the best one serves the request; None: only words were compared, which cannot tell.
        matched: Number of tools that match at all.
        total: Number of tools.
    """

    found: Sequence[Found]
    fits: bool | None
    matched: int
    total: int


class ToolSearch:
    """Searches tools, from several threads if need be.

    Args:
        vectors: What the retriever knows of the tools; None: words alone count.
    """

    def __init__(self, vectors: Vectors | None = None) -> None:
        self.vectors = vectors
        self._words, self._lock = Words(), Lock()

    def search(self, request: str, k: int, tools: Mapping[str, Tool]) -> Answer:
        """Finds tools. A model that fails is left out, with a line in the log.

        Args:
            request: A name, or what a tool should do.
            k: Tools to return, at most.
            tools: By id: all that may be found.
        """
        with self._lock:
            self._words.use(tools)
            named = self._words.named(request)
        hits, fits, waiting = self._by_meaning(request, k + len(named), tools)
        by_words = list[str]()
        if waiting:
            with self._lock:
                self._words.use(tools)
                by_words = self._words.ranked(request)
        found = {id: Found(tools[id], "name") for id in named}
        for one in _merge(hits, by_words, waiting, tools):
            found.setdefault(one.tool.id, one)
        matched = len(tools) if hits else len(found)  # a retriever ranks all
        return Answer(list(found.values())[:k], True if named else fits, matched, len(tools))

    def prepare(self, tools: Mapping[str, Tool]) -> None:
        """Indexes names and words, so that the next search need not."""
        with self._lock:
            self._words.use(tools)

    def _by_meaning(
        self, request: str, k: int, tools: Mapping[str, Tool]
    ) -> tuple[list[Hit], bool | None, Collection[str]]:
        """Returns the retriever's hits, whether any fits, and the ids of tools that it cannot judge."""
        if self.vectors is None or self.vectors.index is None:
            return [], None, tools.keys()
        waiting = self.vectors.missing(tools)
        if len(waiting) == len(tools):
            return [], None, waiting
        try:
            hits, fits = self.vectors.search(request, tools, k)
        except Exception as error:
            logger.warning("the model failed, this search goes by words (%s)", first_line(error))
            return [], None, tools.keys()
        return hits, fits if not waiting else fits or None, waiting


def _merge(
    hits: Sequence[Hit], by_words: Sequence[str], waiting: Collection[str], tools: Mapping[str, Tool]
) -> list[Found]:
    """Returns the hits and, where BM25 ranks them among all tools, those that the retriever cannot judge yet."""
    ranked = [(rank, 0, Found(tools[hit.id], "meaning", hit.probability)) for rank, hit in enumerate(hits)]
    ranked += [(rank, 1, Found(tools[id], "words")) for rank, id in enumerate(by_words) if id in waiting]
    return [found for *_, found in sorted(ranked, key=lambda one: one[:2])]
