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

from rabtriever.cluster.commit import commit, fragment_groups, is_committed, optimize, remove_rows
from rabtriever.cluster.encoder import MAX_ATTEMPTS, PartEncoder
from rabtriever.cluster.ids import Survey, buckets, count_ids, first_duplicate, name_duplicate
from rabtriever.cluster.journal import Failure, Job, Journal, Record
from rabtriever.cluster.parts import open_lance, part_bytes, source_files
from rabtriever.cluster.rows import require_documents
from rabtriever.cluster.running import Workers, run_tasks, run_workers
from rabtriever.errors import InputError, first_line
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
    size = part_bytes(files, workers.room())
    journal = Journal(uri)
    job = Job(uuid4().hex, uri, files, columns, update, delete, size, FIRST_VERSION, time.time_ns())
    if not job.parts:
        raise InputError(f"{source}: no documents in it; a corpus needs at least one")
    require_documents(job.parts[0], columns)
    if (unfinished := journal.job()) is not None:
        unfinished.require_same(job)
    elif not update:
        connect_to_empty(uri)
    with writers_lock(uri, KILLED_WRITER_SECONDS if is_uri(uri) else 0.0) as still_mine:
        if unfinished:
            job = unfinished
        else:
            table = Table.open(uri) if update else None
            job = replace(job, version=table.version) if table else job
            journal.begin(job, table.model if table else None)
        return _Encoding(job, journal, load, workers, still_mine, show_progress_bar).run()


class _Encoding:
    """A job and what it needs."""

    def __init__(
        self,
        job: Job,
        journal: Journal,
        load: Callable[[], Retriever],
        workers: Workers,
        still_mine: Callable[[], None],
        show_progress_bar: bool,
    ) -> None:
        self.job, self.journal, self.load, self.workers = job, journal, load, workers
        self.still_mine, self.shown, self.parts = still_mine, show_progress_bar, job.parts

    def run(self) -> Encoded:
        """Does what is left of the job."""
        committed = is_committed(self.job)
        if not committed:
            n_documents = self._survey()
            self._encode(n_documents)
        records = self.journal.records(self.parts)
        changes = self._changes(records)
        if not committed and changes.any:
            groups = fragment_groups(self.job) if changes.changed or changes.removed else []
            gone = list(run_tasks(partial(remove_rows, self.job), groups, self._room))
            fragments = [fragment for record in records for fragment in record.fragments]
            updated = [fragment for of_group, _ in gone for fragment in of_group]
            self.still_mine()
            commit(self.job, fragments, updated, [identifier for _, of_group in gone for identifier in of_group])
        failed = [failure for record in records for failure in record.failed]
        if not self.job.update and not changes.added:
            self._discard()
            raise InputError(f"{failed[0].place}: {failed[0].reason}; no document could be encoded")
        if changes.any:
            list(run_tasks(optimize, [self.job.uri], 1))  # there, since it takes memory
        self.journal.remove()
        n_documents = open_lance(dataset_uri(self.job.uri)).count_rows()
        return Encoded(changes, failed, len(self.parts), n_documents)

    def _survey(self) -> int:
        """Reads the ids; returns the number of documents. Without any, or if one comes twice, the job is given up."""
        try:
            left = self.journal.remaining(self.parts, "ids")
            known = {part.number for part in self.parts} - {part.number for part in left}
            n_documents = sum(count_ids(self.journal, part) for part in self.parts if part.number in known)
            with bar(len(left), "parts read", shown=self.shown) as done:
                for found in run_tasks(Survey(self.job), left, self._room):
                    n_documents += found
                    done.update()
            if not n_documents:
                raise InputError(f"{self.parts[0].uri}: no documents in it; a corpus needs at least one")
            look = partial(first_duplicate, self.journal.folder.uri, len(self.parts))
            pairs = [pair for pair in run_tasks(look, buckets(n_documents), self._room) if pair]
            if twice := min(pairs, key=lambda pair: pair[1], default=None):
                raise name_duplicate(self.parts, self.job.columns, twice)
        except InputError:
            self._discard()
            raise
        return n_documents

    def _encode(self, n_documents: int) -> None:
        """Encodes the parts that are left; a round ends early for those whose workers are lost."""
        self.journal.forget_attempts()
        arguments = self.job, self.load, max(1, int(self.workers.cpus))
        reason, idle_rounds = "", 0
        with bar(n_documents, "documents encoded", shown=self.shown) as done:
            left = self.journal.remaining(self.parts, "parts")
            while left:
                try:
                    for encoded in run_workers(PartEncoder, arguments, left, self.workers):
                        done.update(encoded)
                except InputError:
                    raise
                except Exception as error:  # noqa: BLE001 - Ray's, of workers that do not start
                    reason = first_line(error)
                before, left = len(left), self.journal.remaining(self.parts, "parts")
                idle_rounds = idle_rounds + 1 if len(left) == before else 0
                if idle_rounds > MAX_ATTEMPTS:
                    raise InputError(f"{left[0].place}: no worker encodes it ({reason}); see to them and run again")

    def _changes(self, records: list[Record]) -> Changes:
        before = open_lance(dataset_uri(self.job.uri), self.job.version).count_rows()
        added, changed = sum(one.added for one in records), sum(one.changed for one in records)
        missing = before - changed - sum(one.kept for one in records)
        removed = missing if self.job.delete else 0
        return Changes(added, changed, removed, sum(one.unchanged for one in records), missing - removed)

    def _discard(self) -> None:
        """Leaves things as they were before the job."""
        self.journal.remove()
        if not self.job.update:
            Folder(dataset_uri(self.job.uri)).remove()  # of a store, what else is at the URI is not ours
            if not is_remote(self.job.uri):
                shutil.rmtree(self.job.uri, ignore_errors=True)

    @property
    def _room(self) -> int:
        return self.workers.room()


def _loader(retriever: str | Path | Callable[[], Retriever], options: dict[str, Any]) -> Callable[[], Retriever]:
    if callable(retriever):
        return retriever
    source = str(retriever)
    source = str(absolute_path(source)) if Path(source).expanduser().exists() else source

    def load() -> Retriever:
        from rabtriever.retriever import Rabtriever

        return Rabtriever.from_pretrained(source, **options)

    return load
