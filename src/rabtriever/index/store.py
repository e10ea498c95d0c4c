"""The Lance table: one row per document, the model it belongs to in the schema's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from rabtriever.data import Document
from rabtriever.errors import InputError

TABLE = "documents"
KEY = b"rabtriever"
JSON = pa.json_(pa.utf8())


@dataclass(frozen=True)
class Model:
    """Which retriever made the latents.

    Attributes:
        fingerprint: Of its weights and prompt.
        width: m, numbers a document besides the bias.
        positive: Leading units that count with a plus; None if the score is an inner product.
        source: Folder it was loaded from, if it was.
    """

    fingerprint: str
    width: int
    positive: int | None
    source: str | None


class Store:
    """A Lance table of documents and latents, seen as its latest version.

    Args:
        connection: The database.
        table: Its table.
    """

    def __init__(self, connection: lancedb.DBConnection, table: lancedb.table.Table) -> None:
        self.connection, self.table = connection, table
        self.model = Model(**json.loads(table.schema.metadata[KEY]))

    @classmethod
    def create(cls, uri: str, model: Model) -> Store:
        """Make an empty table.

        Raises:
            InputError: something stands at ``uri`` already.
        """
        if "://" not in uri and Path(uri).exists() and (Path(uri).is_file() or any(Path(uri).iterdir())):
            raise InputError(f"{uri}: exists already; give another place or remove it")
        connection = _connect(uri)
        if connection.list_tables().tables:
            raise InputError(f"{uri}: holds tables already; give another place or remove them")
        schema = pa.schema(
            [
                pa.field("id", pa.utf8()),
                pa.field("title", pa.utf8()),
                pa.field("text", pa.utf8()),
                pa.field("metadata", JSON),
                pa.field("latent", pa.list_(pa.float32(), model.width)),
                pa.field("bias", pa.float32()),
            ],
            metadata={KEY: json.dumps(asdict(model))},
        )
        return cls(connection, connection.create_table(TABLE, schema=schema))

    @classmethod
    def open(cls, uri: str) -> Store:
        """Open a table.

        Raises:
            InputError: there is no index of ours.
        """
        if "://" not in uri and not Path(uri).is_dir():
            raise InputError(f"{uri}: no such index; make one with `rabtriever index`")
        connection = _connect(uri)
        if TABLE not in connection.list_tables().tables:
            raise InputError(f"{uri}: not an index (no table {TABLE!r} in it); make one with `rabtriever index`")
        table = connection.open_table(TABLE)
        if KEY not in (table.schema.metadata or {}):
            raise InputError(
                f"{uri}: its table {TABLE!r} was not made by rabtriever; make an index with `rabtriever index`"
            )
        return cls(connection, table)

    def __len__(self) -> int:
        """Number of documents."""
        return int(self.table.count_rows())

    @property
    def version(self) -> int:
        """The table's version, raised by every add and delete."""
        return int(self.table.version)

    def drop(self) -> None:
        """Remove the table."""
        self.connection.drop_table(TABLE)

    def ids(self) -> set[str]:
        """All documents' ids."""
        return set(self.table.search().select(["id"]).to_arrow()["id"].to_pylist())

    def add(self, batches: Iterator[tuple[Sequence[Document], np.ndarray]]) -> None:
        """Append batches of documents and their latents (n, m + 1) in one transaction: all or none."""
        # The table's own schema tells JSON by its storage, which only Lance's writer knows how to make.
        schema = pa.schema(
            [pa.field("metadata", JSON) if field.name == "metadata" else field for field in self.table.schema]
        )
        failure: list[Exception] = []

        def rows() -> Iterator[pa.RecordBatch]:
            try:
                for documents, latents in batches:
                    yield _rows(schema, documents, latents)
            except Exception as error:
                failure.append(error)  # Lance would wrap it beyond recognition
                raise

        try:
            self.table.add(pa.RecordBatchReader.from_batches(schema, rows()))
        except RuntimeError:
            if failure:
                raise failure[0] from None
            raise

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents in one transaction."""
        self.table.delete(f"id IN ({', '.join(_quoted(identifier) for identifier in ids)})")

    def latents(self) -> tuple[np.ndarray, np.ndarray]:
        """Row ids int64 (n,) in the order of insertion, and latents float32 (n, m + 1)."""
        rows = self.table.search().select(["latent", "bias"]).with_row_id(True).to_arrow()
        identifiers = rows["_rowid"].to_numpy().astype(np.int64)
        latents = np.empty((len(identifiers), self.model.width + 1), dtype=np.float32)
        start = 0
        for batch in rows.to_batches():
            stop = start + batch.num_rows
            latents[start:stop, :-1] = batch["latent"].flatten().to_numpy().reshape(batch.num_rows, -1)
            latents[start:stop, -1] = batch["bias"].to_numpy()
            start = stop
        order = np.argsort(identifiers, kind="stable")
        return identifiers[order], latents[order]

    def matching(self, where: str) -> np.ndarray:
        """Row ids of the documents that an SQL condition holds for.

        Raises:
            InputError: the condition cannot be read.
        """
        try:
            rows = self.table.search().where(where).select(["id"]).with_row_id(True).to_arrow()
        except (ValueError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split("Candidate functions")[0].split())[:300]
            raise InputError(f"where {where!r}: {reason}") from None
        matched: np.ndarray = rows["_rowid"].to_numpy().astype(np.int64)
        return matched

    def documents(self, rows: np.ndarray) -> dict[int, Document]:
        """The documents of row ids; those that were deleted meanwhile are left out."""
        if not len(rows):
            return {}
        columns = ["id", "title", "text", "metadata"]
        found = self.table.take_row_ids(rows.tolist()).select(columns).with_row_id().to_arrow().to_pylist()
        return {row["_rowid"]: _document(row) for row in found}


def _connect(uri: str) -> lancedb.DBConnection:
    # Every read looks for a newer version, so that a reader sees what a writer has finished.
    return lancedb.connect(uri, read_consistency_interval=timedelta(0))


def _rows(schema: pa.Schema, documents: Sequence[Document], latents: np.ndarray) -> pa.RecordBatch:
    width = latents.shape[1] - 1
    flat = np.ascontiguousarray(latents[:, :-1], dtype=np.float32).ravel()
    metadata = pa.array([json.dumps(dict(document.metadata)) for document in documents], pa.utf8())
    columns = [
        pa.array([document.id for document in documents], pa.utf8()),
        pa.array([document.title for document in documents], pa.utf8()),
        pa.array([document.text for document in documents], pa.utf8()),
        pa.ExtensionArray.from_storage(JSON, metadata),
        pa.FixedSizeListArray.from_arrays(pa.array(flat), width),
        pa.array(latents[:, -1], pa.float32()),
    ]
    return pa.record_batch(columns, schema=schema)


def _document(row: dict[str, Any]) -> Document:
    return Document(row["id"], row["text"], row["title"], json.loads(row["metadata"]))


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
