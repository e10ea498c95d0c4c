"""An index in shards, each in a process of its own, and the same searches over all of them.

A shard is a range of the rows' keys (:class:`rabtriever.index.snapshot.KeyRange`) of one table. It needs no model. All
shards are asked at the same time for the best rows of the same version, and merged by log-odds, ties in the order of
insertion: what the index finds in one process, an exact search finds in any number of shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np

from rabtriever.errors import InputError
from rabtriever.index.current_view import CurrentView
from rabtriever.index.encoding import Retriever
from rabtriever.index.hits import Found
from rabtriever.index.index import Index
from rabtriever.index.search import SearchOptions, find
from rabtriever.index.snapshot import KeyRange
from rabtriever.index.table import Table
from rabtriever.index.table_version import Rows, TableVersion

PARALLEL_SEARCHES = 4  # that a router may have in progress; each needs a thread a shard


class Answer(NamedTuple):
    """What a shard found for each query, and the table's version that it read."""

    version: int
    found: list[Found]


class SearchableShard(Protocol):
    """What a :class:`ShardedIndex` asks of a shard, wherever it is."""

    def search(self, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions, version: int) -> Answer:
        """Finds rows; arguments as of :func:`rabtriever.index.search.find`, and the oldest version to read."""

    def warm(self, version: int) -> None:
        """Opens a version, so that no search has to wait for it."""


class Shard:
    """A shard in this process.

    Args:
        uri: The index.
        number: Which shard, from 0 on.
        count: Of how many.
        precision: Number format of the scan, as of :meth:`rabtriever.Index.open`.
        device: Where torch scans, likewise.

    Raises:
        NotFoundError, CorruptIndexError: as of :meth:`rabtriever.Index.open`.
        InputError: no such shard.
    """

    def __init__(self, uri: str, number: int, count: int, precision: str = "int8", device: str | None = None) -> None:
        if not 0 <= number < count:
            raise InputError(f"shard {number} of {count}: number shards from 0 to one less than there are")
        self._table = Table.open(uri)
        self._current = CurrentView(self._table, precision, device=device, shard=KeyRange(number, count))

    def __len__(self) -> int:
        """Returns the number of documents."""
        return len(self._current.get().snapshot)

    def search(self, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions, version: int) -> Answer:
        """Finds rows in this version, or in a later one that is open already.

        The shard never looks for a later version by itself: all shards are asked for the same.

        Args:
            texts: n queries.
            vectors: float32 (n, dim), from :func:`rabtriever.index.search.query_vectors`.
            options: How to search; BM25 reads the whole table.
            version: The oldest that may be read.

        Raises:
            NotFoundError: the version was removed.
        """
        view = self._current.get(version)
        with self._table.reading(view.snapshot.version):
            return Answer(view.snapshot.version, find(view, texts, vectors, options))

    def warm(self, version: int | None = None) -> None:
        """Opens a version, the latest if None, and compiles the kernel."""
        self._current.get(version).warm()


class ShardedIndex(Index):
    """An index whose searches ask shards; this process holds the retriever alone, and no latents or keys.

    Changes are made here, as of any index, and are found by the next search. :meth:`candidates` and :meth:`latents`,
    which only ``tune`` needs, would read the whole index into this process.

    Args:
        uri: The index.
        retriever: The one that made it.
        shards: All of them, in order.
    """

    def __init__(self, uri: str, retriever: Retriever, shards: Sequence[SearchableShard]) -> None:
        table = Table.open(uri)
        super().__init__(table, retriever, CurrentView(table))
        self._shards, self._turn = list(shards), count()
        self._pool = ThreadPoolExecutor(PARALLEL_SEARCHES * len(shards), "rabtriever-shards")
        self._opened: TableVersion | None = None
        self._open_lock = Lock()

    def warm(self) -> None:
        """Lets every shard open the latest version; of several replicas of a shard, one."""
        version = self.table.version
        list(self._pool.map(lambda shard: shard.warm(version), self._shards))

    def info(self) -> dict[str, Any]:
        """Returns what the table holds, as of :meth:`Index.info`, and the number of shards; asks none of them."""
        return {**self.table.info(), "shards": len(self._shards), "learned": self.learned.current}

    def _latest(self) -> TableVersion:
        return self._at(self.table.version)

    def _find_rows(
        self, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions
    ) -> tuple[TableVersion, list[Found]]:
        asked = self._shards
        if options.mode == "bm25":  # its statistics are the table's: any shard can answer for all, so each has its turn
            asked = [asked[next(self._turn) % len(asked)]]
        answers = [Answer(0, [])] * len(asked)
        version = self.table.version
        while behind := [i for i, answer in enumerate(answers) if answer.version < version]:
            search = partial(_search, texts=texts, vectors=vectors, options=options, version=version)
            found = self._pool.map(search, [asked[i] for i in behind])
            for i, answer in zip(behind, found, strict=True):
                answers[i] = answer
            version = max(answer.version for answer in answers)  # another router may have asked for a later one
        merged = [
            merge(of_query, options.depth) for of_query in zip(*(answer.found for answer in answers), strict=True)
        ]
        return self._at(version), merged

    def _at(self, version: int) -> TableVersion:
        with self._open_lock:
            if self._opened is None or self._opened.version != version:
                self._opened = self.table.at(version)
            return self._opened


def _search(shard: SearchableShard, **query: Any) -> Answer:  # noqa: ANN401
    return shard.search(**query)


def merge(answers: Sequence[Found], k: int) -> Found:
    """Returns the ``k`` best of what several shards found for a query, ties in the order of insertion."""
    if len(answers) == 1:
        return answers[0]
    rows = Rows(*(np.concatenate(column) for column in zip(*(answer.rows for answer in answers), strict=True)))
    log_odds = np.concatenate([answer.log_odds for answer in answers])
    order = np.lexsort((rows.added, -log_odds))[:k]
    return Found(rows.take(order), log_odds[order])
