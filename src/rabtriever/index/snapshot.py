"""A table as of one version: what a search reads, whatever writers do meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.query import FullTextOperator, MultiMatchQuery

from rabtriever.caching import LRUCache
from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.scoring.layout import ScoreLayout

DOCUMENT = ["id", "title", "text", "metadata"]
LATENTS_PER_BATCH, KEYS_PER_BATCH = 8192, 2**18  # latents and keys read at a time
MAX_ROWS_TO_PICK = 100_000  # rows that are picked rather than read with all others


class Snapshot:
    """One version of an index's table.

    Args:
        table: A handle of its own, for it is checked out.
        version: The table's version; the latest if None.
        layout: What the latents' columns mean.
        document_cache: Documents by their rows' keys, of whatever version: those read last.
    """

    def __init__(
        self,
        table: lancedb.table.Table,
        version: int | None,
        layout: ScoreLayout,
        document_cache: LRUCache[int, Document] | None = None,
    ) -> None:
        self.table, self.layout = table, layout
        self.document_cache: LRUCache[int, Document] = LRUCache(0) if document_cache is None else document_cache
        self.version = int(table.version) if version is None else version
        table.checkout(self.version)
        found = table.search().select(["key"]).with_row_id(True).to_batches(batch_size=KEYS_PER_BATCH).read_all()
        rows = found["_rowid"].to_numpy().astype(np.int64)
        order = np.argsort(rows, kind="stable")
        self.rows: np.ndarray = rows[order]
        """int64 (n,), Lance's row ids, ascending: the order of insertion. An *ordinal* is a place in this array."""
        self.keys: np.ndarray = found["key"].to_numpy()[order]
        """int64 (n,), what a latent is known by, in every version."""

    def latents(self, ordinals: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pieces of ordinals int64 and their latents float32 (n, m + 1), as they come."""
        if len(ordinals) < min(len(self.rows) // 4, MAX_ROWS_TO_PICK):
            some = self.table.take_row_ids(self.rows[ordinals].tolist()).with_row_id()
            reader = some.select(["latent", "bias"]).to_batches()
        else:
            all_ = self.table.search().with_row_id(True)
            reader = all_.select(["latent", "bias"]).to_batches(batch_size=LATENTS_PER_BATCH)
        wanted = np.zeros(len(self.rows), bool)
        wanted[ordinals] = True
        for batch in reader:
            found = np.searchsorted(self.rows, batch["_rowid"].to_numpy().astype(np.int64))
            latents = np.empty((batch.num_rows, self.layout.width + 1), np.float32)
            latents[:, :-1] = batch["latent"].flatten().to_numpy().reshape(batch.num_rows, -1)
            latents[:, -1] = batch["bias"].to_numpy()
            kept = wanted[found]
            yield found[kept], latents[kept]

    def filter(self, where: str) -> np.ndarray:
        """Ordinals of the documents that an SQL condition holds for.

        Raises:
            InputError: the condition cannot be read.
        """
        try:
            found = self.table.search().where(where).select(["key"]).with_row_id(True).to_arrow()
        except (ValueError, RuntimeError, OSError) as error:
            raise _unreadable(where, error) from None
        return np.searchsorted(self.rows, np.sort(found["_rowid"].to_numpy().astype(np.int64)))

    def bm25_search(self, text: str, k: int, where: str | None) -> np.ndarray:
        """Ordinals of BM25's k best documents over title and text, best first.

        Raises:
            InputError: the table has no text index, or ``where`` cannot be read.
        """
        if not self.has_text_index():
            raise InputError("bm25: no text index yet; call optimize(), or `rabtriever index --update`", param="mode")
        query = self.table.search(
            MultiMatchQuery(text, ["title", "text"], boosts=None, operator=FullTextOperator.OR), query_type="fts"
        )
        query = query.where(where) if where else query
        query = query.select(["key", "_score"]).with_row_id(True).limit(k)
        try:
            found = query.to_arrow().sort_by([("_score", "descending")])
        except (ValueError, RuntimeError, OSError) as error:
            if where is None:
                raise
            raise _unreadable(where, error) from None
        return np.searchsorted(self.rows, found["_rowid"].to_numpy().astype(np.int64))

    def has_text_index(self) -> bool:
        """Whether there is a text index."""
        return any(index.index_type == "FTS" for index in self.table.list_indices())

    def documents(self, ordinals: np.ndarray) -> list[Document]:
        """The documents at these ordinals, in their order."""
        keys = self.keys[ordinals].tolist()
        documents = {key: document for key in keys if (document := self.document_cache.get(key))}
        missing = {int(self.rows[o]): key for o, key in zip(ordinals, keys, strict=True) if key not in documents}
        if missing:
            found: pa.Table = self.table.take_row_ids(list(missing)).select(DOCUMENT).with_row_id().to_arrow()
            for row in found.to_pylist():
                documents[missing[row["_rowid"]]] = document = _document(row)
                self.document_cache.put(
                    missing[row["_rowid"]], document, 256 + sum(len(row[name]) for name in DOCUMENT)
                )
        return [documents[key] for key in keys]


def id_filter(ids: Sequence[str]) -> str:
    """The condition that a document has one of these ids."""
    return "id IN ({})".format(", ".join("'" + identifier.replace("'", "''") + "'" for identifier in ids))


def _unreadable(where: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split("Candidate functions")[0].split(", /")[0].split())[:300]
    return InputError(f"where {where!r}: {reason}", param="where")


def _document(row: dict[str, Any]) -> Document:
    return Document(row["id"], row["text"], row["title"], json.loads(row["metadata"]))
