"""The one transaction that ends a job: all its fragments, and the rows that they replace."""

from __future__ import annotations

import json
from typing import Any

from rabtriever.cluster.journal import Job
from rabtriever.cluster.parts import open_lance
from rabtriever.errors import InputError
from rabtriever.extras import needs
from rabtriever.index.index import VERSION_RETENTION
from rabtriever.index.lance_errors import write_errors
from rabtriever.index.table import ENCODING, Table, dataset_uri
from rabtriever.persistence.object_store import storage_options

MESSAGE = "__lance_commit_message"  # where Lance keeps the message of a transaction


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
