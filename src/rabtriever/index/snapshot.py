"""One version of an index's table: what a search reads, whatever writers do meanwhile.

A document has five coordinates:

=========  ============================  ============================================================================
id         text                          Its name for users. Unique in a version.
row id     int64, Lance's                Where its row is stored. Changes when files merge; used in this file alone.
key        int64, 63 random bits         Identifies its row, and so its latent, in every version. An upserted document
                                         has a new one. Segments are matched with versions by keys.
ordinal    0 .. n_documents - 1          Its rank in a version in the order of insertion (column ``added``). Filters,
                                         rankings and the order of ties use it.
position   0 .. 64 n_blocks - 1          Its column in a segment's arrays, which are sorted by cluster. The kernel uses
                                         it; a mounted segment maps it to the ordinal.
=========  ============================  ============================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from rabtriever.caching import LRUCache
from rabtriever.data import Document
from rabtriever.errors import InputError, has_half_character
from rabtriever.index.conditions import tolerate_other_kinds
from rabtriever.scoring.layout import ScoreLayout

if TYPE_CHECKING:
    import lancedb
    import pyarrow as pa

DOCUMENT_COLUMNS, LATENT_COLUMNS = ["id", "title", "text", "metadata"], ["latent", "gain", "bias"]
LATENTS_PER_BATCH, KEYS_PER_BATCH = 8192, 2**18
MAX_ROWS_TO_PICK = 100_000  # rows that are picked one by one rather than read with all others
CACHED_DOCUMENT_OVERHEAD = 256  # characters that a cached document weighs besides its texts


class Snapshot:
    """One version of an index's table.

    Args:
        table: A handle of its own, since it is checked out at the version.
        version: The table's version; the latest if None.
        layout: What the latents' columns mean.
        document_cache: The documents read last, by their rows' keys; shared by all versions.

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
    ) -> None:
        self.table, self.layout, self.document_cache = table, layout, document_cache
        self.version = int(table.version) if version is None else version
        table.checkout(self.version)
        rows = table.search().select(["key", "added"]).with_row_id(True).to_batches(batch_size=KEYS_PER_BATCH)
        found = rows.read_all()
        order = np.argsort(found["added"].to_numpy(), kind="stable")
        self.keys: np.ndarray = found["key"].to_numpy()[order]
        self.row_ids: np.ndarray = _row_ids(found)[order]
        ascending = bool((self.row_ids[1:] > self.row_ids[:-1]).all())
        self._by_row_id = None if ascending else np.argsort(self.row_ids)

    def __len__(self) -> int:
        """Returns the number of documents."""
        return len(self.keys)

    def latents(self, ordinals: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields batches of the ordinals int64 (b,) and their latents float32 (b, dim), in any order."""
        if not len(ordinals):
            return
        if len(ordinals) < min(len(self) // 4, MAX_ROWS_TO_PICK):
            picked = self.table.take_row_ids(self.row_ids[ordinals].tolist()).with_row_id()
            reader = picked.select(LATENT_COLUMNS).to_batches()
        else:
            every = self.table.search().with_row_id(True)
            reader = every.select(LATENT_COLUMNS).to_batches(batch_size=LATENTS_PER_BATCH)
        selected = np.zeros(len(self), bool)
        selected[ordinals] = True
        for batch in reader:
            of_batch = self._ordinals(_row_ids(batch))
            latents = np.empty((batch.num_rows, self.layout.dim), np.float32)
            latents[:, :-2] = batch["latent"].flatten().to_numpy().reshape(batch.num_rows, -1)
            latents[:, -2], latents[:, -1] = batch["gain"].to_numpy(), batch["bias"].to_numpy()
            yield of_batch[selected[of_batch]], latents[selected[of_batch]]

    def filter(self, where: str) -> np.ndarray:
        """Returns the ordinals int64, ascending, of the documents that meet an SQL condition.

        A metadata value of another kind than a ``json_get_...`` asks for is null.
        """
        with _condition_errors(where):
            found = self.table.search().where(tolerate_other_kinds(where)).select(["key"]).with_row_id(True).to_arrow()
        return np.sort(self._ordinals(_row_ids(found)))

    def bm25_search(self, text: str, k: int, where: str | None) -> np.ndarray:
        """Returns the ordinals int64 of BM25's k best documents over title and text, best first.

        Documents that share no word with ``text`` are not found. Ties come in the order of insertion.
        """
        if not any(index.index_type == "FTS" for index in self.table.list_indices()):
            raise InputError("bm25: no text index yet; call optimize(), or `rabtriever index --update`", param="mode")
        from lancedb.query import FullTextOperator, MultiMatchQuery

        words = MultiMatchQuery(text, ["title", "text"], boosts=None, operator=FullTextOperator.OR)
        query = self.table.search(words, query_type="fts")
        query = query.where(tolerate_other_kinds(where)) if where else query
        query = query.select(["key", "_score"]).with_row_id(True)
        limit = k + 16
        while True:
            with _condition_errors(where):
                found = query.limit(limit).to_arrow()
            scores, ordinals = found["_score"].to_numpy(), self._ordinals(_row_ids(found))
            order = np.lexsort((ordinals, -scores))
            if len(order) < limit or scores[order[k - 1]] > scores[order[-1]]:
                return ordinals[order[:k]]
            limit *= 4  # Lance cuts ties as it likes: all of the k-th's must be seen

    def ids(self) -> list[str]:
        """Returns the ids of all documents, by ordinal."""
        rows = self.table.search().select(["id"]).with_row_id(True).to_arrow()
        found = np.empty(len(self), object)
        found[self._ordinals(_row_ids(rows))] = rows["id"].to_pylist()
        return found.tolist()

    def documents(self, ordinals: np.ndarray) -> list[Document]:
        """Returns the documents of these ordinals, in their order."""
        keys = self.keys[ordinals].tolist()
        documents = {key: document for key in keys if (document := self.document_cache.get(key))}
        missing = {int(self.row_ids[o]): key for o, key in zip(ordinals, keys, strict=True) if key not in documents}
        if missing:
            rows = self.table.take_row_ids(list(missing)).select(DOCUMENT_COLUMNS).with_row_id().to_arrow()
            for row in rows.to_pylist():
                key = missing[row["_rowid"]]
                metadata = json.loads(row["metadata"])
                documents[key] = document = Document(row["id"], row["text"], row["title"], metadata)
                weight = CACHED_DOCUMENT_OVERHEAD + sum(len(row[name]) for name in DOCUMENT_COLUMNS)
                self.document_cache.put(key, document, weight)
        return [documents[key] for key in keys]

    def _ordinals(self, row_ids: np.ndarray) -> np.ndarray:
        found = np.searchsorted(self.row_ids, row_ids, sorter=self._by_row_id)
        return found if self._by_row_id is None else self._by_row_id[found]


def id_filter(ids: Sequence[str]) -> str:
    """Returns the SQL condition that a document has one of these ids."""
    possible = [identifier for identifier in ids if not has_half_character(identifier)]
    quoted = ", ".join("'" + identifier.replace("'", "''") + "'" for identifier in possible)
    return f"id IN ({quoted})" if possible else "false"


def _row_ids(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    return rows["_rowid"].to_numpy().astype(np.int64)


@contextmanager
def _condition_errors(where: str | None) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        if where is None:
            raise
        reason = " ".join(str(error).split("Candidate functions")[0].split(", /")[0].split())[:300]
        raise InputError(f"where {where!r}: {reason}", param="where") from None
