"""The Lance table: one row per document, the model it belongs to in the schema's metadata. This is the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from lancedb.index import FTS, BTree

from rabtriever.caching import LRUCache
from rabtriever.data import Document
from rabtriever.errors import BusyError, ConflictError, CorruptIndexError, InputError, NotFoundError, StorageError
from rabtriever.index.snapshot import Snapshot, id_filter
from rabtriever.scoring.layout import ScoreLayout

TABLE = "documents"
LOCK = "writer.lock"
KEY = b"rabtriever"
JSON = pa.json_(pa.utf8())
FORMAT = 3
IDS_PER_LOOKUP = 10_000  # ids looked up at a time
DOCUMENT_CACHE_CHARS = 2**24  # characters of documents that are kept in memory after they were found


@dataclass(frozen=True)
class ModelInfo:
    """Which retriever made the latents.

    Attributes:
        fingerprint: Of its weights and prompt.
        layout: What the latents' columns mean.
        source: Folder it was loaded from, if it was.
    """

    fingerprint: str
    layout: ScoreLayout
    source: str | None


class Table:
    """A Lance table of documents and latents: what changes it, and its versions.

    Args:
        uri: Folder or object-store URI.
        connection: The database there.
        table: Its table, as of its latest version.
    """

    def __init__(self, uri: str, connection: lancedb.DBConnection, table: lancedb.table.Table) -> None:
        self.uri, self.connection, self.table = uri, connection, table
        stored = json.loads(table.schema.metadata[KEY])
        if stored.pop("format", 1) != FORMAT:
            raise InputError(f"{uri}: an index of another release; index the documents again")
        self.model = ModelInfo(**{**stored, "layout": ScoreLayout(**stored["layout"])})
        self._document_cache: LRUCache[int, Document] = LRUCache(DOCUMENT_CACHE_CHARS)

    @classmethod
    def create(cls, uri: str, model: ModelInfo) -> Table:
        """Make an empty table.

        Raises:
            InputError: something stands at ``uri`` already.
        """
        if "://" not in uri and Path(uri).exists() and (Path(uri).is_file() or any(Path(uri).iterdir())):
            raise ConflictError(f"{uri}: exists already; give another place or remove it")
        connection = _connect(uri)
        if connection.list_tables().tables:
            raise ConflictError(f"{uri}: holds tables already; give another place or remove them")
        schema = pa.schema(
            [
                pa.field("id", pa.utf8()),
                pa.field("title", pa.utf8()),
                pa.field("text", pa.utf8()),
                pa.field("metadata", JSON),
                pa.field("key", pa.int64()),
                pa.field("latent", pa.list_(pa.float32(), model.layout.width)),
                pa.field("bias", pa.float32()),
            ],
            metadata={KEY: json.dumps({"format": FORMAT, **asdict(model)})},
        )
        return cls(uri, connection, connection.create_table(TABLE, schema=schema))

    @classmethod
    def open(cls, uri: str) -> Table:
        """Open a table.

        Raises:
            InputError: there is no index of ours, or it is damaged.
        """
        if "://" not in uri and not Path(uri).is_dir():
            raise NotFoundError(f"{uri}: no such index; make one with `rabtriever index`")
        connection = _connect(uri)
        if TABLE not in connection.list_tables().tables:
            raise InputError(f"{uri}: not an index (no table {TABLE!r} in it); make one with `rabtriever index`")
        with table_errors(uri):
            table = connection.open_table(TABLE)
        if KEY not in (table.schema.metadata or {}):
            raise InputError(
                f"{uri}: its table {TABLE!r} was not made by rabtriever; make an index with `rabtriever index`"
            )
        return cls(uri, connection, table)

    def __len__(self) -> int:
        """Number of documents."""
        return int(self.table.count_rows())

    @property
    def version(self) -> int:
        """The table's version, raised by every change."""
        return int(self.table.version)

    def bytes(self) -> int:
        """What the latest version takes on disk."""
        stats: Any = self.table.stats()
        return int(stats["total_bytes"])

    def versions(self) -> list[dict[str, Any]]:
        """Version, time and number of documents of each that can be opened, the oldest first."""
        return [
            {"version": v["version"], "time": v["timestamp"].isoformat(), "documents": int(v["metadata"]["total_rows"])}
            for v in self.table.list_versions()
        ]

    def model_folder(self) -> Path:
        """Returns where the model was when the index was made.

        Raises:
            NotFoundError: it is not there any more.
        """
        if self.model.source is None:
            raise NotFoundError(f"{self.uri}: made by a model that was not saved; give the retriever (--model)")
        if not Path(self.model.source).is_dir():
            raise NotFoundError(f"{self.uri}: its model {self.model.source} is gone; give the retriever (--model)")
        return Path(self.model.source)

    def info(self) -> dict[str, Any]:
        """Returns what the index holds, as far as its table tells."""
        return {
            "uri": self.uri,
            "documents": len(self),
            "model": self.model.source,
            "fingerprint": self.model.fingerprint,
            "layout": self.model.layout.to_dict(),
            "version": self.version,
            "versions": len(self.versions()),
            "table_bytes": self.bytes(),
        }

    def snapshot(self, version: int | None = None) -> Snapshot:
        """A version to read from; the latest if None.

        Raises:
            InputError: there is no such version, or it is damaged.
        """
        if version is not None and version not in (there := [v["version"] for v in self.table.list_versions()]):
            raise NotFoundError(f"{self.uri}: no version {version}; there are {', '.join(map(str, there))}")
        with table_errors(self.uri):
            return Snapshot(self.connection.open_table(TABLE), version, self.model.layout, self._document_cache)

    def writing(self, wait: float = 0.0) -> AbstractContextManager[Any]:
        """Held by whoever changes the index. In an object store Lance itself refuses what conflicts.

        Args:
            wait: Seconds to wait for another writer.

        Raises:
            BusyError: another writer is at work.
        """
        if "://" in self.uri:
            return nullcontext()
        return _locked(FileLock(Path(self.uri) / LOCK), self.uri, wait)

    def drop(self) -> None:
        """Remove the table."""
        self.connection.drop_table(TABLE)

    def existing_ids(self, ids: Sequence[str]) -> set[str]:
        """Which of these ids are there."""
        found: set[str] = set()
        for start in range(0, len(ids) if len(self) else 0, IDS_PER_LOOKUP):
            rows = self.table.search().where(id_filter(ids[start : start + IDS_PER_LOOKUP])).select(["id"]).to_arrow()
            found.update(rows["id"].to_pylist())
        return found

    def add(self, batches: Iterator[tuple[Sequence[Document], np.ndarray]], replace: bool) -> None:
        """Write batches of documents and their latents (n, m + 1) in one transaction: all or none.

        Args:
            batches: Of different ids.
            replace: Whether documents whose ids are there already take the place of those.
        """
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

        reader = pa.RecordBatchReader.from_batches(schema, rows())
        try:
            if replace:
                self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(reader)
            else:
                self.table.add(reader)
        except (RuntimeError, OSError, ValueError) as error:
            if failure:
                raise failure[0] from None
            raise StorageError(f"{self.uri}: cannot be written, nothing was added: {_one_line(error)}") from error

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents in one transaction."""
        self.table.delete(id_filter(ids))

    def restore(self, version: int) -> None:
        """Make an older version the latest again; those in between stay."""
        self.table.checkout(version)
        self.table.restore()

    def optimize(self, keep: timedelta) -> None:
        """Join small files, bring the indices of ids and words up to date, forget versions older than ``keep``."""
        there = {column for index in self.table.list_indices() for column in index.columns}
        wanted: dict[str, Any] = {"id": BTree(), "title": FTS(), "text": FTS()}
        for column, kind in wanted.items():
            if column not in there and len(self):
                self.table.create_index(column, config=kind)
        self.table.optimize(cleanup_older_than=keep)


@contextmanager
def table_errors(uri: str) -> Iterator[None]:
    """Lance's errors, in a line of ours.

    Raises:
        InputError: a table that cannot be read.
    """
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, OSError, ValueError) as error:
        raise CorruptIndexError(
            f"{uri}: damaged ({_one_line(error)}); restore it from a copy, or index again"
        ) from error


@contextmanager
def _locked(lock: FileLock, uri: str, wait: float) -> Iterator[None]:
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise BusyError(f"{uri}: another process is changing it; wait until it is done") from None
    try:
        yield
    finally:
        lock.release()


def _connect(uri: str) -> lancedb.DBConnection:
    # Every read looks for a newer version, so that a reader sees what a writer has finished.
    return lancedb.connect(uri, read_consistency_interval=timedelta(0))


def _rows(schema: pa.Schema, documents: Sequence[Document], latents: np.ndarray) -> pa.RecordBatch:
    width = latents.shape[1] - 1
    flat = np.ascontiguousarray(latents[:, :-1], dtype=np.float32).ravel()
    metadata = pa.array([json.dumps(dict(document.metadata)) for document in documents], pa.utf8())
    keys = np.random.default_rng().integers(2**63 - 1, size=len(documents))
    columns = [
        pa.array([document.id for document in documents], pa.utf8()),
        pa.array([document.title for document in documents], pa.utf8()),
        pa.array([document.text for document in documents], pa.utf8()),
        pa.ExtensionArray.from_storage(JSON, metadata),
        pa.array(keys),
        pa.FixedSizeListArray.from_arrays(pa.array(flat), width),
        pa.array(latents[:, -1], pa.float32()),
    ]
    return pa.record_batch(columns, schema=schema)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
