"""One version of an index's table, with no rows in memory: documents, conditions and BM25 are read from Lance.

:mod:`rabtriever.index.snapshot` explains keys and row ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

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
CACHED_DOCUMENT_OVERHEAD = 256  # characters that a cached document weighs besides its texts


class Rows(NamedTuple):
    """Some rows of a version.

    Attributes:
        keys: int64 (n,), of the documents.
        row_ids: int64 (n,), Lance's, in this version.
        added: int64 (n,), ascending in the order of insertion.
    """

    keys: np.ndarray
    row_ids: np.ndarray
    added: np.ndarray

    def take(self, positions: np.ndarray) -> Rows:
        """Returns the rows at some positions."""
        return Rows(*(column[positions] for column in self))


class TableVersion:
    """One version of an index's table.

    Args:
        table: A handle of its own, since it is checked out at the version.
        version: The table's version; the latest if None.
        layout: What the latents' columns mean.
        document_cache: The documents read last, by their rows' keys; shared by all versions.
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

    def find(self, where: str) -> Rows:
        """Returns the rows that meet an SQL condition, in the order of insertion.

        A metadata value of another kind than a ``json_get_...`` asks for is null.
        """
        with condition_errors(where):
            query = self.table.search().where(tolerate_other_kinds(where))
            found = _rows(query.select(["key", "added"]).with_row_id(True).to_arrow())
        return found.take(np.argsort(found.added, kind="stable"))

    def bm25_search(self, text: str, k: int, where: str | None) -> Rows:
        """Returns BM25's k best rows over title and text, best first.

        Documents that share no word with ``text`` are not found. Ties come in the order of insertion.
        """
        if not any(index.index_type == "FTS" for index in self.table.list_indices()):
            raise InputError("bm25: no text index yet; call optimize(), or `rabtriever index --update`", param="mode")
        from lancedb.query import FullTextOperator, MultiMatchQuery

        words = MultiMatchQuery(text, ["title", "text"], boosts=None, operator=FullTextOperator.OR)
        query = self.table.search(words, query_type="fts")
        query = query.where(tolerate_other_kinds(where)) if where else query
        query = query.select(["key", "added", "_score"]).with_row_id(True)
        k = min(k, max(1, self.table.count_rows()))
        limit = k + 16
        while True:
            with condition_errors(where):
                found = query.limit(limit).to_arrow()
            scores, rows = found["_score"].to_numpy(), _rows(found)
            order = np.lexsort((rows.added, -scores))
            if len(order) < limit or scores[order[k - 1]] > scores[order[-1]]:
                return rows.take(order[:k])
            limit *= 4  # Lance cuts ties as it likes: all of the k-th's must be seen

    def ids(self) -> list[str]:
        """Returns the ids of all documents, in the order of insertion."""
        rows = self.table.search().select(["id", "added"]).to_arrow()
        ids: list[str] = rows.sort_by("added")["id"].to_pylist()
        return ids

    def documents(self, rows: Rows) -> list[Document]:
        """Returns the documents of some rows, in their order."""
        keys = rows.keys.tolist()
        documents = {key: document for key in keys if (document := self.document_cache.get(key))}
        missing = {row: key for row, key in zip(rows.row_ids.tolist(), keys, strict=True) if key not in documents}
        if missing:
            found = self.table.take_row_ids(list(missing)).select(DOCUMENT_COLUMNS).with_row_id().to_arrow()
            for row in found.to_pylist():
                key = missing[row["_rowid"]]
                metadata = json.loads(row["metadata"])
                documents[key] = document = Document(row["id"], row["text"], row["title"], metadata)
                weight = CACHED_DOCUMENT_OVERHEAD + sum(len(row[name]) for name in DOCUMENT_COLUMNS)
                self.document_cache.put(key, document, weight)
        return [documents[key] for key in keys]

    def latents_of(self, rows: Rows) -> np.ndarray:
        """Returns the latents float32 (n, dim) of a few rows, in their order."""
        result = np.empty((len(rows.keys), self.layout.dim), np.float32)
        position = {row: i for i, row in enumerate(rows.row_ids.tolist())}
        if position:
            for batch in self.table.take_row_ids(list(position)).with_row_id().select(LATENT_COLUMNS).to_batches():
                result[[position[row] for row in row_ids(batch).tolist()]] = latents_in(batch, self.layout.dim)
        return result


def id_filter(ids: Sequence[str]) -> str:
    """Returns the SQL condition that a document has one of these ids."""
    possible = [identifier for identifier in ids if not has_half_character(identifier)]
    quoted = ", ".join("'" + identifier.replace("'", "''") + "'" for identifier in possible)
    return f"id IN ({quoted})" if possible else "false"


def row_ids(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    """Returns Lance's row ids, int64 (n,), of what it found."""
    return rows["_rowid"].to_numpy().astype(np.int64)


def latents_in(batch: pa.RecordBatch, dim: int) -> np.ndarray:
    """Returns the latents float32 (n, dim) of a batch of ``LATENT_COLUMNS``."""
    latents = np.empty((batch.num_rows, dim), np.float32)
    latents[:, :-2] = batch["latent"].flatten().to_numpy().reshape(batch.num_rows, -1)
    latents[:, -2], latents[:, -1] = batch["gain"].to_numpy(), batch["bias"].to_numpy()
    return latents


@contextmanager
def condition_errors(where: str | None) -> Iterator[None]:
    """Turns Lance's errors into InputError, if a condition was given that may be their cause."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        if where is None:
            raise
        reason = " ".join(str(error).split("Candidate functions")[0].split(", /")[0].split())[:300]
        raise InputError(f"where {where!r}: {reason}", param="where") from None


def _rows(found: pa.Table) -> Rows:
    return Rows(found["key"].to_numpy(), row_ids(found), found["added"].to_numpy())
