"""A worker's half of encoding: it reads a part, encodes what is new and writes it as Lance fragments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from rabtriever.caching import LRUCache
from rabtriever.cluster.journal import Failure, Job, Journal, Record
from rabtriever.cluster.parts import Part, open_lance
from rabtriever.cluster.replacing import KEPT, REPLACED, fragment_groups, write_rows
from rabtriever.cluster.rows import Placed, read_documents
from rabtriever.cluster.running import BrokenWorkerError
from rabtriever.data import Document
from rabtriever.errors import InputError, first_line
from rabtriever.extras import needs
from rabtriever.index.encoding import DOCUMENTS_PER_BATCH, MAX_REUSED_BYTES, Retriever, encode_batch
from rabtriever.index.schema import ModelInfo, record_batch, writable_schema
from rabtriever.index.syncing import document_digest
from rabtriever.index.table import Table, dataset_uri
from rabtriever.index.table_version import id_filter

ALL_BAD = 16  # documents of a part of which none can be encoded: the model is at fault, not they

Item = tuple[int, str, Document]  # position in the corpus, place for messages, document


class PartEncoder:
    """Encodes parts; Ray Data makes one a worker.

    Args:
        job: What is encoded.
        load: Loads the retriever.
        threads: Threads to compute with.

    Raises:
        InputError: no such retriever, or not the job's.
    """

    def __init__(self, job: Job, load: Callable[[], Retriever], threads: int) -> None:
        self.job, self.journal, self.retriever = job, Journal(job), load()
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(threads)
        model = ModelInfo.of(self.retriever)
        Table.ensure(job.uri, model).model.check(model.fingerprint, job.uri)  # a new one is the first worker's
        self.dataset = open_lance(dataset_uri(job.uri), job.version)
        self.groups = fragment_groups(job) if job.update else []
        self.good: Document | None = None  # the last that was encoded
        self.reused: LRUCache[str, np.ndarray] = LRUCache(MAX_REUSED_BYTES)

    def __call__(self, part: Part) -> int:
        """Encodes a part, unless it is done; returns the number of its documents.

        Raises:
            InputError: the job cannot go on.
            BrokenWorkerError: this worker cannot.
        """
        return 0 if self.journal.is_done(part) else self._encode_part(part)

    def _encode_part(self, part: Part) -> int:
        record, schema = Record(), writable_schema(self.dataset.schema)
        failed: dict[int, Failure] = {}
        rows: list[tuple[int, int]] = []
        batches: list[pa.RecordBatch] = []
        stream, n_read = read_documents(part, self.job.columns), 0
        while chunk := list(islice(stream, DOCUMENTS_PER_BATCH)):
            items = list(_documents(chunk, failed))
            stored = self._stored([document.id for _, _, document in items]) if self.job.update else {}
            changed = [item for item in items if stored.get(item[2].id, ("", 0))[0] != document_digest(item[2])]
            for encoded, latents in self._encode(changed, failed):
                added = self.job.added + np.array([position for position, _, _ in encoded], np.int64)
                batches.append(record_batch(schema, [document for _, _, document in encoded], latents, added))
                replaced = [stored.pop(one.id)[1] for _, _, one in encoded if one.id in stored]
                rows += [(row, REPLACED) for row in replaced]
                record.changed += len(replaced)
                record.added += len(encoded) - len(replaced)
            rows += [(row, KEPT) for _, row in stored.values()]
            record.kept += len(stored)
            record.unchanged += len(items) - len(changed)
            n_read += len(chunk)
        record.failed = [failed[position] for position in sorted(failed)]
        if len(failed) >= ALL_BAD and not record.added + record.changed + record.unchanged:
            raise InputError(f"{part.place}: no document can be encoded ({record.failed[0].reason}); see to the model")
        record.fragments = self._write(batches)
        write_rows(self.journal, part, self.groups, rows)
        self.journal.finish(part, record)
        return n_read

    def _stored(self, ids: Sequence[str]) -> dict[str, tuple[bytes, int]]:
        """Returns the digest and the row's address of those of some ids that the index holds."""
        columns = ["id", "title", "text", "metadata"]
        found = self.dataset.to_table(columns=columns, filter=id_filter(ids), with_row_address=True)
        return {
            row["id"]: (
                document_digest(Document(row["id"], row["text"], row["title"], json.loads(row["metadata"]))),
                row["_rowaddr"],
            )
            for row in found.to_pylist()
        }

    def _encode(self, items: Sequence[Item], failed: dict[int, Failure]) -> Iterator[tuple[Sequence[Item], np.ndarray]]:
        """Yields documents with their latents float32 (n, dim); halves a batch until what makes it fail is alone."""
        if not items:
            return
        try:
            latents = encode_batch([document for _, _, document in items], self.retriever, self.reused)
        except Exception as error:  # noqa: BLE001 - of whatever model
            if len(items) == 1:
                if not isinstance(error, InputError):
                    self._require_working()
                position, place, document = items[0]
                reason = str(error) if isinstance(error, InputError) else first_line(error)
                failed[position] = Failure(document.id, place, reason)
            else:
                half = len(items) // 2
                yield from self._encode(items[:half], failed)
                yield from self._encode(items[half:], failed)
        else:
            self.good = items[-1][2]
            yield items, latents

    def _require_working(self) -> None:
        """Raises BrokenWorkerError if what was encoded before fails, too: the device is at fault, no document."""
        if self.good is None:
            return
        try:
            encode_batch([self.good], self.retriever, LRUCache(MAX_REUSED_BYTES))
        except Exception as error:
            raise BrokenWorkerError(first_line(error)) from error

    def _write(self, batches: list[pa.RecordBatch]) -> list[Any]:
        """Writes rows as files of the table, which no version of it has yet; returns what describes them."""
        if not batches:
            return []
        with needs("cluster"):
            from lance.fragment import write_fragments
        version = self.dataset.data_storage_version
        rows = pa.Table.from_batches(batches)
        written = write_fragments(rows, self.dataset, mode="append", data_storage_version=version)
        return [fragment.to_json() for fragment in written]


def _documents(chunk: Sequence[Placed], failed: dict[int, Failure]) -> Iterator[Item]:
    """Yields the documents among rows; the others have failed."""
    for position, place, found in chunk:
        if isinstance(found, InputError):
            failed[position] = Failure("", place, str(found))
        else:
            yield position, place, found
