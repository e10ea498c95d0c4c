"""One version of an index's table: what a search reads, whatever writers do meanwhile.

A document has five coordinates:

=========  ============================  ============================================================================
id         text                          Its name for users. Unique in a version.
row id     int64, Lance's                Where its row is stored in a version. Changes when files merge.
key        int64, 63 random bits         Identifies its row, and so its latent, in every version. An upserted document
                                         has a new one. Segments are matched with versions by keys.
ordinal    0 .. n_documents - 1          Its rank in a version in the order of insertion (column ``added``). Filters,
                                         rankings and the order of ties use it.
position   0 .. 64 n_blocks - 1          Its column in a segment's arrays, which are sorted by cluster. The kernel uses
                                         it; a mounted segment maps it to the ordinal.
=========  ============================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rabtriever.caching import LRUCache
from rabtriever.data import Document
from rabtriever.index.conditions import tolerate_other_kinds
from rabtriever.index.table_version import LATENT_COLUMNS, Rows, TableVersion, condition_errors, latents_in, row_ids
from rabtriever.scoring.layout import ScoreLayout

if TYPE_CHECKING:
    import lancedb

LATENTS_PER_BATCH, KEYS_PER_BATCH = 8192, 2**18
MAX_ROWS_TO_PICK = 100_000  # rows that are picked one by one rather than read with all others


@dataclass(frozen=True)
class KeyRange:
    """Shard ``number`` of ``count``: the rows whose keys are in an equal part of all 63 bits.

    Keys are random, so shards are of one size, whatever is added and removed, and no file belongs to one of them.
    """

    number: int
    count: int

    @property
    def bounds(self) -> tuple[int, int]:
        """Its first key and its last."""
        first, end = (2**63 * number // self.count for number in (self.number, self.number + 1))
        return first, end - 1

    @property
    def condition(self) -> str:
        """The SQL condition that a row is in it."""
        first, last = self.bounds
        return f"key >= {first} AND key <= {last}"

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """Returns bool (n,), whether keys int64 (n,) are in it."""
        first, last = self.bounds
        return (first <= keys) & (keys <= last)

    @property
    def name(self) -> str:
        """For files; empty of the only one, which is the whole index."""
        return f"{self.number}-of-{self.count}" if self.count > 1 else ""


class Snapshot(TableVersion):
    """One version of an index's table, or of one of its shards, whose keys are in memory.

    Args:
        table: A handle of its own, since it is checked out at the version.
        version: The table's version; the latest if None.
        layout: What the latents' columns mean.
        document_cache: The documents read last, by their rows' keys; shared by all versions.
        shard: Which rows it has; all if None.

    Attributes:
        keys: int64 (n,), the key of each ordinal.
        row_ids: int64 (n,), Lance's row id of each ordinal.
    """

    def __init__(
        self,
        table: lancedb.table.Table,
        version: int | None,
        layout: ScoreLayout,
        document_cache: LRUCache[int, Document],
        shard: KeyRange | None = None,
    ) -> None:
        super().__init__(table, version, layout, document_cache)
        self.shard = shard
        rows = self._search().select(["key", "added"]).with_row_id(True).to_batches(batch_size=KEYS_PER_BATCH)
        found = rows.read_all()
        added = found["added"].to_numpy()
        order = np.argsort(added, kind="stable")
        self.keys: np.ndarray = found["key"].to_numpy()[order]
        self.row_ids: np.ndarray = row_ids(found)[order]
        self._added = None if shard is None else added[order]  # in a whole table, ordinals are as good
        ascending = bool((self.row_ids[1:] > self.row_ids[:-1]).all())
        self._by_row_id = None if ascending else np.argsort(self.row_ids)

    def __len__(self) -> int:
        """Returns the number of documents."""
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of what is in memory."""
        arrays = [self.keys, self.row_ids, self._added, self._by_row_id]
        return sum(array.nbytes for array in arrays if array is not None)

    def rows(self, ordinals: np.ndarray) -> Rows:
        """Returns the rows of some ordinals."""
        return Rows(
            self.keys[ordinals], self.row_ids[ordinals], (ordinals if self._added is None else self._added[ordinals])
        )

    def latents(self, ordinals: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields batches of the ordinals int64 (b,) and their latents float32 (b, dim), in any order."""
        if not len(ordinals):
            return
        if len(ordinals) < min(len(self) // 4, MAX_ROWS_TO_PICK):
            picked = self.table.take_row_ids(self.row_ids[ordinals].tolist()).with_row_id()
            reader = picked.select(LATENT_COLUMNS).to_batches()
        else:
            every = self._search().with_row_id(True)
            reader = every.select(LATENT_COLUMNS).to_batches(batch_size=LATENTS_PER_BATCH)
        selected = np.zeros(len(self), bool)
        selected[ordinals] = True
        for batch in reader:
            of_batch = self._ordinals(row_ids(batch))
            yield of_batch[selected[of_batch]], latents_in(batch, self.layout.dim)[selected[of_batch]]

    def filter(self, where: str) -> np.ndarray:
        """Returns the ordinals int64, ascending, of the documents that meet an SQL condition.

        A metadata value of another kind than a ``json_get_...`` asks for is null.
        """
        with condition_errors(where):
            found = self._search(tolerate_other_kinds(where)).select(["key"]).with_row_id(True).to_arrow()
        ids = row_ids(found)
        if self.shard:  # a condition with an odd parenthesis might have got out of its own
            ids = ids[self.shard.contains(found["key"].to_numpy())]
        return np.sort(self._ordinals(ids))

    def _search(self, where: str | None = None) -> lancedb.query.LanceQueryBuilder:
        """Starts to read the shard's rows that meet an SQL condition."""
        conditions = [f"({where})"] if where else []
        conditions += [self.shard.condition] if self.shard else []
        query = self.table.search()
        return query.where(" AND ".join(conditions)) if conditions else query

    def _ordinals(self, ids: np.ndarray) -> np.ndarray:
        found = np.searchsorted(self.row_ids, ids, sorter=self._by_row_id)
        return found if self._by_row_id is None else self._by_row_id[found]
