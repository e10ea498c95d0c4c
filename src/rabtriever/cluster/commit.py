"""The one transaction that ends a job: all its fragments, and the rows that they replace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from rabtriever.cluster.encoder import KEPT, REPLACED
from rabtriever.cluster.journal import Job, Journal
from rabtriever.cluster.parts import open_lance
from rabtriever.errors import InputError
from rabtriever.extras import needs
from rabtriever.index.index import VERSION_RETENTION
from rabtriever.index.lance_errors import write_errors
from rabtriever.index.table import ENCODING, Table, dataset_uri
from rabtriever.persistence.object_store import storage_options

ROWS_PER_TASK = 2**24  # of fragments whose removed rows are found at a time
MESSAGE = "__lance_commit_message"  # where Lance keeps the message of a transaction


def fragment_groups(job: Job) -> list[list[int]]:
    """Returns the ids of the table's fragments, each group of as many rows as a task marks."""
    groups: list[list[int]] = []
    held = ROWS_PER_TASK
    for fragment in open_lance(dataset_uri(job.uri), job.version).get_fragments():
        if held + fragment.physical_rows > ROWS_PER_TASK:
            groups.append([])
            held = 0
        groups[-1].append(fragment.fragment_id)
        held += fragment.physical_rows
    return groups


def remove_rows(job: Job, fragment_ids: Sequence[int]) -> tuple[list[Any], list[int]]:
    """Marks rows of fragments as deleted: those that are replaced and, if the job deletes, those that are not kept.

    Returns:
        Descriptions of fragments with such rows, and ids of those without another row.
    """
    rows = Journal(job.uri).rows(job.parts)
    dataset = open_lance(dataset_uri(job.uri), job.version)
    updated, removed = [], []
    for identifier in fragment_ids:
        of_fragment = rows[rows[:, 0] >> 32 == identifier]
        gone = of_fragment[of_fragment[:, 1] == REPLACED, 0]
        fragment = dataset.get_fragment(identifier)
        if job.delete:
            every = (
                fragment.scanner(columns=[], with_row_address=True).to_table()["_rowaddr"].to_numpy().astype(np.int64)
            )
            gone = np.setdiff1d(every, of_fragment[of_fragment[:, 1] == KEPT, 0])
        if len(gone) == fragment.count_rows():
            removed.append(identifier)
        elif len(gone):
            updated.append(fragment.delete(f"_rowaddr IN ({', '.join(map(str, gone.tolist()))})").to_json())
    return updated, removed


def commit(job: Job, fragments: list[Any], updated: list[Any], removed: list[int]) -> None:
    """Makes the job's documents those of the table, in one transaction.

    Raises:
        StorageError: it cannot be written.
    """
    with needs("cluster"):
        from lance import FragmentMetadata, LanceDataset, LanceOperation
    new = [FragmentMetadata.from_json(json.dumps(one)) for one in fragments]
    if updated or removed:
        changed = [FragmentMetadata.from_json(json.dumps(one)) for one in updated]
        operation: Any = LanceOperation.Update(
            removed_fragment_ids=removed, updated_fragments=changed, new_fragments=new
        )
    else:
        operation = LanceOperation.Append(new)
    with write_errors(job.uri):
        LanceDataset.commit(
            dataset_uri(job.uri),
            operation,
            read_version=job.version,
            commit_message=job.id,
            storage_options=storage_options(job.uri) or None,
        )


def is_committed(job: Job) -> bool:
    """Returns whether the job's transaction is done.

    Raises:
        InputError: another one was, so that what workers compared with the table may be wrong.
    """
    try:
        dataset = open_lance(dataset_uri(job.uri))
    except ValueError:
        if job.update:
            raise
        return False  # no worker has made the table yet
    for version in range(job.version + 1, dataset.version + 1):
        transaction = dataset.read_transaction(version)
        if transaction and (transaction.transaction_properties or {}).get(MESSAGE) == job.id:
            return True
    if dataset.version > job.version:
        remedy = f"remove {job.uri}/{ENCODING} and run the command again"
        raise InputError(f"{job.uri}: changed by another writer since the unfinished job began; {remedy}")
    return False


def optimize(uri: str) -> None:
    """Merges the fragments and makes the indices of ids and words."""
    Table.open(uri).optimize(VERSION_RETENTION)
