"""The tools as a retriever knows them: an index in the state folder, which follows the catalogue in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from math import log
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from filelock import FileLock

from rabtriever.data import Document
from rabtriever.errors import BusyError, InputError, NotFoundError, StorageError
from rabtriever.mcp.catalogue import Tool
from rabtriever.mcp.reranking import search_index
from rabtriever.scoring.calibration import Calibration

if TYPE_CHECKING:
    from rabtriever.index import Index
    from rabtriever.index.encoding import Retriever
    from rabtriever.index.hits import Hit
    from rabtriever.retriever import Rabtriever

logger = logging.getLogger("rabtriever.mcp")

TOOLS_PER_WRITE = 256  # encoded and found from then on; a write takes some ten milliseconds
# Below both, the best tool counts as not fitting: its probability as a pair by itself, and among the tools beside it.
# Measured in benchmarks/mcp/no_fit.py.
DOUBTFUL, DOUBTFUL_IN_LIST = 0.02, 0.3
WAIT = 60.0  # seconds for another gateway that writes to the same index


class Vectors:
    """An index of tools in a folder, one for each model.

    Args:
        folder: Where the indices are.
        load: Returns the retriever; called in the thread of :meth:`open`.
        rerank: Number of best tools that the retriever's reranker reads; None: no reranker.
        refuse: Share of the requests that some tool serves for which a search may say that none does, at most, if the
            retriever can promise that (:class:`rabtriever.scoring.refusal.Refusal`); else probabilities decide.

    Attributes:
        index: None until the model is loaded, and for good if that failed.
    """

    def __init__(
        self, folder: Path, load: Callable[[], Rabtriever], rerank: int | None = None, refuse: float = 0.05
    ) -> None:
        self.folder, self.rerank, self._refuse, self._load = folder, rerank, refuse, load
        self.index: Index | None = None
        self._encoded: dict[str, str] = {}  # id -> the text that the index has of it
        self._version = 0  # of the index, that has these
        self._failed: dict[str, str] = {}  # id -> the text that could not be encoded
        self._before: Mapping[str, Tool] | None = None  # as of the last sync
        self._lock = Lock()  # of these
        self._missing: tuple[object, object, set[str]] = (None, None, set())  # of these tools, these texts
        self._fits: Callable[[Hit], bool] | None = None
        self._learned = 0

    def open(self) -> None:
        """Loads the model and opens its index, or makes an empty one."""
        from rabtriever.index import Index

        retriever = self._load()
        uri = self.folder / f"index-{retriever.fingerprint[:12]}"
        try:
            index = Index.open(uri, retriever)
        except NotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{uri}.lock"):  # another gateway may be about to make it
                index = Index.open(uri, retriever) if uri.exists() else Index.create(uri, retriever)
        index.write_timeout = WAIT
        self._use_learned(index)
        index.warm()
        self._read(index)
        self.index = index

    def sync(self, tools: Mapping[str, Tool]) -> int:
        """Encodes what is new or has another text, and removes what is gone. Call it from one thread at a time.

        The first one removes all that is not in ``tools``, later ones what was in the last: another gateway may need
        the rest.

        Returns:
            The number of tools that were encoded.
        """
        assert self.index is not None
        with self._lock:
            return self._sync(self.index, tools)

    def follow(self) -> bool:
        """Reads anew what the index has, if it is another version by now; returns whether texts were lost or changed.

        Another gateway, with another file of servers, may have removed or rewritten them. While :meth:`sync` is at work
        there is nothing to follow.
        """
        if self.index is None or not self._lock.acquire(blocking=False):
            return False
        try:
            return self._follow(self.index)
        finally:
            self._lock.release()

    def _follow(self, index: Index) -> bool:
        if index.table.version == self._version:
            return False
        before = self._encoded
        self._read(index)
        return any(self._encoded.get(id) != text for id, text in before.items())

    def _sync(self, index: Index, tools: Mapping[str, Tool]) -> int:
        self._follow(index)
        missing, documents = self.missing(tools), {id: tool.document for id, tool in tools.items()}
        wanted = [documents[id] for id in tools if id in missing and self._failed.get(id) != documents[id].content]
        gone = [
            id
            for id in (self._encoded if self._before is None else self._before)
            if id not in tools and id in self._encoded
        ]
        self._before = tools
        if gone:
            index.delete([document.id for document in index.get(gone)])  # not what another has removed
            self._encoded = {id: text for id, text in self._encoded.items() if id not in gone}
        for start in range(0, len(wanted), TOOLS_PER_WRITE):
            self._write(wanted[start : start + TOOLS_PER_WRITE])
        if wanted or gone:
            index.optimize()
            self._read(index)  # then no search has to read them from disk
        return len(wanted)

    def missing(self, tools: Mapping[str, Tool]) -> set[str]:
        """Returns the ids of tools that have no vector yet, or one of another text."""
        encoded, found = self._encoded, self._missing
        if found[0] is not tools or found[1] is not encoded:
            ids = {id for id, tool in tools.items() if encoded.get(id) != tool.document.content}
            found = self._missing = (tools, encoded, ids)
        return found[2]

    def search(self, request: str, tools: Mapping[str, Tool], k: int) -> tuple[list[Hit], bool | None]:
        """Returns ``k`` tools and maybe more, if there are as many with vectors, best first, and whether any fits.

        That is None if the retriever cannot tell. A reranker that fails is left out, with a line in the log.
        """
        assert self.index is not None
        if self._learned != self.index.learned.current:  # `rabtriever tune` or a rollback
            self._use_learned(self.index)
        missing = self.missing(tools)
        good = self._search(request, k, tools, missing)
        if len(good) < min(k, len(tools) - len(missing)):  # among those found are some that must not be shown
            good = self._search(request, k + len(self.index), tools, missing)
        return good, self._fits(good[0]) if good and self._fits else None

    def _search(self, request: str, k: int, tools: Mapping[str, Tool], missing: Container[str]) -> list[Hit]:
        assert self.index is not None
        hits = search_index(self.index, request, k, self.rerank)
        return [hit for hit in hits if hit.id in tools and hit.id not in missing]

    def _read(self, index: Index) -> None:
        version = index.table.version  # before the rest: what is written meanwhile is read the next time
        self._encoded = {document.id: document.content for document in index.get(index.ids())}
        self._version = version

    def _use_learned(self, index: Index) -> None:
        self._learned = index.learned.current
        index.use_learned()
        self._fits = fitting(index.retriever, self._refuse)

    def _write(self, documents: Sequence[Document]) -> None:
        assert self.index is not None
        try:
            self.index.upsert(documents)
        except (BusyError, StorageError):
            raise
        except InputError as error:
            if len(documents) > 1:
                for document in documents:  # one that cannot be encoded keeps no other out
                    self._write([document])
            else:
                self._failed[documents[0].id] = documents[0].content  # not tried again
                logger.warning("%s has no vector, only its words can be found (%s)", documents[0].id, error)
            return
        self._encoded = self._encoded | {document.id: document.content for document in documents}


def fitting(retriever: Retriever, refuse: float) -> Callable[[Hit], bool] | None:
    """Returns what says of a search's best hit whether it serves the request; None: the retriever cannot tell.

    That is the promise where there is one. Else a hit fits unless it is doubtful both by itself and in its list, if the
    retriever's probabilities are calibrated.
    """
    with suppress(InputError):
        limit = retriever.refusal.limit(refuse)
        return lambda best: best.log_odds >= limit
    calibration = retriever.calibration
    if calibration == Calibration():
        return None
    least = (log(DOUBTFUL / (1 - DOUBTFUL)) - calibration.offset) * calibration.temperature
    return lambda best: best.log_odds >= least or best.probability >= DOUBTFUL_IN_LIST
