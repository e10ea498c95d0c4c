"""A corpus encoded by many workers into one index: read, encoded and written in parts, committed once.

1. The corpus is cut into parts (:mod:`rabtriever.cluster.parts`). This process knows those, and no document.
2. The ids of all parts are read; one that comes twice ends the job here, before hours of encoding.
3. Workers encode the parts and write them as files of the table, which none of its versions has yet. What is done is
   noted beside the table (:mod:`rabtriever.cluster.journal`), so that a second run goes on from there.
4. One transaction makes all of them rows of the table. Then its indices are made.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from rabtriever.cluster.commit import commit, is_committed, optimize
from rabtriever.cluster.encoder import PartEncoder
from rabtriever.cluster.ids import IdReader, buckets, count_ids, first_duplicate, name_duplicate
from rabtriever.cluster.journal import Failure, Job, Journal, Record, begin, end, unfinished_job
from rabtriever.cluster.parts import open_lance, part_bytes, source_files
from rabtriever.cluster.replacing import fragment_groups, remove_rows
from rabtriever.cluster.rows import require_documents
from rabtriever.cluster.running import Workers, run_tasks, run_workers
from rabtriever.errors import InputError
from rabtriever.index.encoding import Retriever
from rabtriever.index.lease import LEASE_SECONDS, writers_lock
from rabtriever.index.syncing import Changes
from rabtriever.index.table import Table, connect_to_empty, dataset_uri
from rabtriever.persistence.files import Folder
from rabtriever.persistence.folder import absolute_path, normalized_uri
from rabtriever.persistence.object_store import is_remote, is_uri
from rabtriever.progress import bar
from rabtriever.sources.tables import Columns

FIRST_VERSION = 1  # of a table that was just made
KILLED_WRITER_SECONDS = LEASE_SECONDS + 5.0  # after which an object store lets the next one in


@dataclass(frozen=True)
class Encoded:
    """What came of encoding a corpus.

    Attributes:
        changes: How many documents were added, changed, removed, left as they were, and are missing from the corpus.
        failed: Those that could not be encoded; the index has the others.
        parts: In how many parts the corpus was encoded.
        documents: Number of documents of the index now.
    """

    changes: Changes
    failed: list[Failure]
    parts: int
    documents: int


def encode_corpus(
    source: str | Path,
    retriever: str | Path | Callable[[], Retriever],
    uri: str | Path,
    *,
    update: bool = False,
    delete: bool = False,
    columns: Columns | None = None,
    workers: Workers | None = None,
    options: dict[str, Any] | None = None,
    show_progress_bar: bool = False,
) -> Encoded:
    """Encodes a corpus into an index on the Ray cluster that this process is connected to.

    The index is the one that :meth:`rabtriever.Index.build` makes, but for the last digits of latents. The same call
    after a failure goes on where that one was.

    Args:
        source: A JSONL, Parquet or Lance file, a BEIR folder, an index, or a folder of such files; path or URI. All
            machines of the cluster must reach it, as they must the index and the model.
        retriever: Folder or name, for :meth:`rabtriever.Rabtriever.from_pretrained`; or a function that loads one.
        uri: Folder or object-store URI of the index.
        update: Whether the index exists: what it holds already is not encoded, what differs is replaced.
        delete: Whether documents of the index that the corpus lacks are removed, if ``update``.
        columns: Of tables; the usual ones if None.
        workers: How many, and what each needs; one a core if None.
        options: ``device``, ``dtype`` and ``backend`` for ``from_pretrained``.
        show_progress_bar: Whether to show progress on stderr.

    Returns:
        What changed, and which documents failed: those that cannot be read or encoded.

    Raises:
        NotFoundError: no such source or, if ``update``, index.
        ConflictError: an index exists at ``uri``, unless ``update``.
        InputError: a source of another kind, an id that comes twice, another model or source than that of an unfinished
            job at ``uri``, or a part that fails again and again.
        BusyError: another writer.
        StorageError: no space.
    """
    workers, columns = workers or Workers(), columns or Columns()
    load = _loader(retriever, options or {})
    uri, files = normalized_uri(uri).rstrip("/"), source_files(source)
    size = part_bytes(files, workers.capacity())
    job = Job(uuid4().hex, uri, files, columns, update, delete, size, FIRST_VERSION, time.time_ns())
    if not job.parts:
        raise InputError(f"{source}: no documents in it; a corpus needs at least one")
    require_documents(job.parts[0], columns)
    _unfinished(job)  # where it raises, nothing is left there, not even a lock
    with writers_lock(uri, KILLED_WRITER_SECONDS if is_uri(uri) else 0.0) as still_mine:
        if unfinished := _unfinished(job):
            job = unfinished
        else:
            job = replace(job, version=Table.open(uri).version) if update else job
            begin(job)
        return _Encoding(job, source, load, workers, still_mine, show_progress_bar).run()


def _unfinished(job: Job) -> Job | None:
    """Returns the unfinished job that a new one goes on with, if there is one; raises if it is another."""
    if unfinished := unfinished_job(job.uri):
        unfinished.require_same(job)
    elif job.update:
        Table.open(job.uri)
    else:
        connect_to_empty(job.uri)
    return unfinished


class _Encoding:
    """A job and what it needs."""

    def __init__(
        self,
        job: Job,
        source: str | Path,
        load: Callable[[], Retriever],
        workers: Workers,
        still_mine: Callable[[], None],
        show_progress_bar: bool,
    ) -> None:
        self.job, self.source, self.load, self.workers = job, source, load, workers
        self.still_mine, self.shown, self.parts, self.journal = still_mine, show_progress_bar, job.parts, Journal(job)

    def run(self) -> Encoded:
        """Does what is left of the job."""
        committed = is_committed(self.job)
        if not committed:
            self._encode(self._read_ids())
        records = self.journal.records(self.parts)
        changes = self._changes(records)
        failed = [failure for record in records for failure in record.failed]
        if not committed:
            if not self.job.update and not changes.added:
                self._discard()
                raise InputError(f"{failed[0].place}: {failed[0].reason}; no document could be encoded")
            self._commit(records, changes)
        if changes.any:
            list(run_tasks(optimize, [self.job.uri], 1))  # there, since it takes memory
        end(self.job)
        n_documents = open_lance(dataset_uri(self.job.uri)).count_rows()
        return Encoded(changes, failed, len(self.parts), n_documents)

    def _read_ids(self) -> int:
        """Reads the ids; returns the number of documents. Without any, or if one comes twice, the job is given up."""
        left = self.journal.remaining(self.parts, "ids")
        unread = {part.number for part in left}
        n_documents = count_ids(self.job, [part for part in self.parts if part.number not in unread])
        with bar(len(left), "parts read", shown=self.shown) as done:
            for found in run_tasks(IdReader(self.job), left, self._capacity):
                n_documents += found
                done.update()
        if not n_documents:
            fault = InputError(f"{self.source}: no documents in it; a corpus needs at least one")
        else:
            found_twice = run_tasks(partial(first_duplicate, self.job), buckets(n_documents), self._capacity)
            twice = min(filter(None, found_twice), key=lambda pair: pair[1], default=None)
            if not twice:
                return n_documents
            fault = name_duplicate(self.parts, self.job.columns, twice)
        if self.journal.remaining(self.parts, "parts") == self.parts:
            self._discard()
        raise fault

    def _encode(self, n_documents: int) -> None:
        """Encodes the parts that are left."""
        arguments = self.job, self.load, max(1, int(self.workers.cpus))
        with bar(n_documents, "documents encoded", shown=self.shown) as done:
            for encoded in run_workers(
                PartEncoder,
                arguments,
                lambda: self.journal.remaining(self.parts, "parts"),
                self.workers,
                lambda part: part.place,
                self.job.uri,
            ):
                done.update(encoded)

    def _commit(self, records: list[Record], changes: Changes) -> None:
        """Makes the documents rows of the table, if the source still is what was read."""
        self.job.require_unchanged(source_files(self.source))
        if not changes.any:
            return
        groups = fragment_groups(self.job) if changes.changed or changes.removed else []
        remove = partial(remove_rows, self.job, len(groups))
        gone = list(run_tasks(remove, list(enumerate(groups)), self._capacity))
        fragments = [fragment for record in records for fragment in record.fragments]
        updated = [fragment for of_group, _ in gone for fragment in of_group]
        self.still_mine()
        commit(self.job, fragments, updated, [identifier for _, of_group in gone for identifier in of_group])

    def _changes(self, records: list[Record]) -> Changes:
        before = open_lance(dataset_uri(self.job.uri), self.job.version).count_rows()
        added, changed = sum(one.added for one in records), sum(one.changed for one in records)
        missing = before - changed - sum(one.kept for one in records)
        removed = missing if self.job.delete else 0
        return Changes(added, changed, removed, sum(one.unchanged for one in records), missing - removed)

    def _discard(self) -> None:
        """Leaves things as they were before the job; if interrupted, the job is still there and does it again."""
        if not self.job.update:
            Folder(dataset_uri(self.job.uri)).remove()  # of a store, what else is at the URI is not ours
        end(self.job)
        if not self.job.update and not is_remote(self.job.uri):
            shutil.rmtree(self.job.uri, ignore_errors=True)

    @property
    def _capacity(self) -> int:
        return self.workers.capacity()


def _loader(retriever: str | Path | Callable[[], Retriever], options: dict[str, Any]) -> Callable[[], Retriever]:
    if callable(retriever):
        return retriever
    source = str(retriever)
    source = str(absolute_path(source)) if Path(source).expanduser().exists() else source

    def load() -> Retriever:
        from rabtriever.retriever import Rabtriever

        return Rabtriever.from_pretrained(source, **options)

    return load
