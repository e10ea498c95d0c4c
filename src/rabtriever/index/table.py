"""The Lance table: one row per document. It is the truth; all else that a search reads is derived from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from rabtriever.caching import LRUCache
from rabtriever.data import Document
from rabtriever.errors import BusyError, ConflictError, CorruptIndexError, NotFoundError, StorageError
from rabtriever.index.connection import connect
from rabtriever.index.lance_errors import LANCE_ERRORS, is_conflict, table_errors, write_errors
from rabtriever.index.lease import LOCK, never_lost, writers_lock
from rabtriever.index.lease import TABLE as WRITER
from rabtriever.index.schema import ModelInfo, read_model, record_batches, table_schema, writable_schema
from rabtriever.index.snapshot import KeyRange, Snapshot
from rabtriever.index.table_version import TableVersion, id_filter
from rabtriever.persistence.files import Folder
from rabtriever.persistence.folder import normalized_uri
from rabtriever.persistence.object_store import is_remote

if TYPE_CHECKING:
    import lancedb

TABLE = "documents"
ENCODING = "encoding"  # folder of a job that fills the index (rabtriever.cluster.journal)
IDS_PER_LOOKUP = 10_000
DOCUMENT_CACHE_CHARS = 2**24  # characters of documents that stay in memory after they were found


def dataset_uri(uri: str) -> str:
    """Returns where the Lance data set of an index's table is."""
    return f"{uri}/{TABLE}.lance"


class Table:
    """A Lance table of documents and latents, its changes and its versions; ``model`` made the latents."""

    def __init__(self, uri: str, connection: lancedb.DBConnection, table: lancedb.table.Table) -> None:
        self.uri, self.connection, self.table = uri, connection, table
        self.model = read_model(table.schema, uri)
        self._document_cache: LRUCache[int, Document] = LRUCache(DOCUMENT_CACHE_CHARS)
        self._check_lease: Callable[[], None] = never_lost  # raises if another writer took over

    @classmethod
    def create(cls, uri: str, model: ModelInfo) -> Table:
        """Makes an empty table; raises ConflictError if something exists at ``uri``."""
        uri = normalized_uri(uri)
        connection = connect_to_empty(uri)
        with write_errors(uri):
            try:
                table = connection.create_table(TABLE, schema=table_schema(model))
            except LANCE_ERRORS as error:
                if is_conflict(error):  # another process was faster
                    raise _not_empty(uri) from error
                raise
        return cls(uri, connection, table)

    @classmethod
    def ensure(cls, uri: str, model: ModelInfo) -> Table:
        """Opens a table, or makes an empty one; of several processes that do so, one makes it."""
        connection = connect(uri)
        with write_errors(uri):
            try:
                table = connection.create_table(TABLE, schema=table_schema(model), exist_ok=True)
            except LANCE_ERRORS:  # another process was faster
                table = connection.open_table(TABLE)
        return cls(uri, connection, table)

    @classmethod
    def open(cls, uri: str) -> Table:
        """Opens a table; errors as of :meth:`rabtriever.Index.open`."""
        uri = normalized_uri(uri)
        if not is_remote(uri) and not Path(uri).is_dir():
            raise NotFoundError(f"{uri}: no such index; make one with `rabtriever index`")
        connection = connect(uri)
        if TABLE not in connection.list_tables().tables:
            _require_finished(uri)
            raise NotFoundError(f"{uri}: not an index (no table {TABLE!r} in it); make one with `rabtriever index`")
        with table_errors(uri):
            table = connection.open_table(TABLE)
        return cls(uri, connection, table)

    def __len__(self) -> int:
        """Returns the number of documents."""
        with table_errors(self.uri):
            return int(self.table.count_rows())

    @property
    def version(self) -> int:
        """Number of the latest version; every change raises it. In a store: as of seconds ago at most."""
        with table_errors(self.uri):
            return int(self.table.version)

    def versions(self) -> list[dict[str, Any]]:
        """Returns ``version``, ``time`` (ISO 8601) and ``documents`` of each that can be opened, oldest first."""
        with table_errors(self.uri):
            rows = self.table.list_versions()
        return [
            {"version": v["version"], "time": v["timestamp"].isoformat(), "documents": int(v["metadata"]["total_rows"])}
            for v in rows
        ]

    def model_source(self) -> str:
        """Returns the folder that the model was loaded from when the index was made, or the name of an encoder.

        Raises:
            NotFoundError: the folder does not exist any more, or the model was never saved.
        """
        source, remedy = self.model.source, "give the retriever (--model)"
        if source is None:
            raise NotFoundError(f"{self.uri}: made by a model that was not saved; {remedy}")
        if Path(source).is_absolute() and not Path(source).is_dir():
            raise NotFoundError(f"{self.uri}: its model {source} is gone; {remedy}")
        return source

    def info(self) -> dict[str, Any]:
        """Returns the latest version's number, documents and bytes on disk, and the model."""
        with table_errors(self.uri):
            versions, stats = self.versions(), cast(dict[str, Any], self.table.stats())
            return {
                "uri": self.uri,
                "documents": versions[-1]["documents"],
                "model": self.model.source,
                "fingerprint": self.model.fingerprint,
                "layout": self.model.layout.to_dict(),
                "version": versions[-1]["version"],
                "versions": len(versions),
                "text_index": "text" in _indexed_columns(self.table),
                "table_bytes": int(stats["total_bytes"]),
            }

    def snapshot(self, version: int | None = None, shard: KeyRange | None = None) -> Snapshot:
        """Opens a version, or one shard of it, to search; the latest if None.

        Raises:
            NotFoundError: no such version.
        """
        with table_errors(self.uri) if version is None else self.reading(version):
            handle = self.connection.open_table(TABLE)
            return Snapshot(handle, version, self.model.layout, self._document_cache, shard)

    def at(self, version: int) -> TableVersion:
        """Opens a version to read a few documents from; errors as of :meth:`snapshot`."""
        with self.reading(version):
            return TableVersion(self.connection.open_table(TABLE), version, self.model.layout, self._document_cache)

    @contextmanager
    def reading(self, version: int) -> Iterator[None]:
        """Turns Lance's errors into NotFoundError if the version has been removed meanwhile, else CorruptIndexError."""
        try:
            with table_errors(self.uri):
                yield
        except CorruptIndexError:
            self._require_version(version)
            raise

    @contextmanager
    def writing(self, wait: float = 0.0) -> Iterator[None]:
        """Holds the writers' lock, or raises BusyError after ``wait`` seconds."""
        with writers_lock(self.uri, wait, self.connection) as check_lease:
            self._check_lease = check_lease
            try:
                with table_errors(self.uri):
                    self.table.checkout_latest()  # a change must not build on what this process saw seconds ago
                yield
            finally:
                self._check_lease = never_lost

    def require_finished(self) -> None:
        """Raises BusyError if a job of encoding has not filled the table yet."""
        if not len(self):
            _require_finished(self.uri)

    def drop(self) -> None:
        """Removes the table, and the writers' one."""
        for name in {TABLE, WRITER} & set(self.connection.list_tables().tables):
            self.connection.drop_table(name)

    def existing_ids(self, ids: Sequence[str]) -> set[str]:
        """Returns those of some ids that the table holds."""
        found: set[str] = set()
        with table_errors(self.uri):
            for start in range(0, len(ids) if len(self) else 0, IDS_PER_LOOKUP):
                where = id_filter(ids[start : start + IDS_PER_LOOKUP])
                found.update(self.table.search().where(where).select(["id"]).to_arrow()["id"].to_pylist())
        return found

    def add(
        self, batches: Iterator[tuple[Sequence[Document], np.ndarray]], replace: bool, remove: Sequence[str] = ()
    ) -> None:
        """Writes batches of documents and latents float32 (n, dim) in one transaction: all or none.

        Args:
            batches: All their ids differ.
            replace: Whether they replace documents whose ids exist; else none may.
            remove: Ids of other documents, which go in the same transaction, if ``replace``.

        Raises:
            StorageError: the table cannot be written.
        """
        schema = writable_schema(self.table.schema)
        failure: list[Exception] = []

        def rows() -> Iterator[pa.RecordBatch]:
            try:
                yield from record_batches(schema, batches)
                self._check_lease()  # before Lance commits
            except Exception as error:
                failure.append(error)
                raise

        reader = pa.RecordBatchReader.from_batches(schema, rows())
        try:
            with write_errors(self.uri):
                if replace:
                    merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                    if remove:
                        merge = merge.when_not_matched_by_source_delete(id_filter(remove))
                    merge.execute(reader)
                else:
                    self.table.add(reader)
        except StorageError as error:
            raise failure[0] if failure else error from None  # Lance wraps it beyond recognition

    def delete(self, ids: Sequence[str]) -> None:
        """Removes documents in one transaction."""
        with write_errors(self.uri):
            self._check_lease()
            self.table.delete(id_filter(ids))

    def restore(self, version: int) -> None:
        """Makes a past version the latest again; those in between stay."""
        self._require_version(version)
        with write_errors(self.uri):
            table = self.connection.open_table(TABLE)  # a failure must not leave the shared handle at that version
            table.checkout(version)
            self._check_lease()
            table.restore()
            self.table.checkout_latest()  # in a store this handle would see it seconds later

    def optimize(self, retention: timedelta) -> None:
        """Merges small files, updates the indices of ids and words, removes versions older than ``retention``."""
        from lancedb.index import FTS, BTree

        with write_errors(self.uri):
            indexed = _indexed_columns(self.table)
            indices: dict[str, Any] = {"id": BTree(), "title": FTS(), "text": FTS()}
            for column, kind in indices.items():
                if column not in indexed and len(self):
                    self.table.create_index(column, config=kind)
            self.table.optimize(cleanup_older_than=retention)

    def _require_version(self, version: int) -> None:
        existing = [v["version"] for v in self.versions()]
        if version not in existing:
            raise NotFoundError(f"{self.uri}: no version {version}; there are {', '.join(map(str, existing))}")


def connect_to_empty(uri: str) -> lancedb.DBConnection:
    """Connects to where a table is to be made; raises ConflictError if something is there."""
    place = Path(uri)
    if not is_remote(uri) and place.exists() and (place.is_file() or {path.name for path in place.iterdir()} - {LOCK}):
        raise ConflictError(f"{uri}: exists already; give another folder or remove it")
    connection = connect(uri)
    if set(connection.list_tables().tables) - {WRITER}:
        raise _not_empty(uri)
    return connection


def _not_empty(uri: str) -> ConflictError:
    return ConflictError(f"{uri}: holds tables already; give another URI or remove them")


def _require_finished(uri: str) -> None:
    if Folder(f"{uri}/{ENCODING}").exists("job.json"):
        remedy = "wait until it is done; if it was stopped, run its command again"
        raise BusyError(f"{uri}: still being made by `rabtriever index --ray`; {remedy}")


def _indexed_columns(table: lancedb.table.Table) -> set[str]:
    return {column for index in table.list_indices() for column in index.columns}
