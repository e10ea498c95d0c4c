"""The rows of an index that an update keeps and replaces, and their removal, a group of fragments at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rabtriever.cluster.journal import Job, Journal
from rabtriever.cluster.parts import Part, open_lance
from rabtriever.cluster.slices import pack_slices, read_slices
from rabtriever.index.table import dataset_uri

ROWS_PER_TASK = 2**24  # of fragments whose removed rows are found at a time: 400 MB at most
KEPT, REPLACED = 0, 1
ROW = np.dtype([("address", "<i8"), ("mark", "<i8")])


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


def write_rows(journal: Journal, part: Part, groups: Sequence[Sequence[int]], rows: Sequence[tuple[int, int]]) -> None:
    """Notes rows of a part's documents: their addresses, and whether each is kept or replaced."""
    if not rows:
        return
    noted = np.array(rows, ROW)
    group_of = {fragment: number for number, group in enumerate(groups) for fragment in group}
    numbers = np.array([group_of[fragment] for fragment in (noted["address"] >> 32).tolist()])
    order = np.argsort(numbers, kind="stable")
    journal.write(part, "rows", pack_slices(noted[order], numbers[order], len(groups)))


def remove_rows(job: Job, n_groups: int, numbered: tuple[int, Sequence[int]]) -> tuple[list[Any], list[int]]:
    """Marks rows of fragments as deleted: those that are replaced and, if the job deletes, those that are not kept.

    Args:
        job: The job.
        n_groups: Number of groups of fragments.
        numbered: One of them, with its number.

    Returns:
        Descriptions of fragments with such rows, and ids of those without another row.
    """
    (number, fragment_ids), folder = numbered, Journal(job).folder
    names = [f"rows/{name}" for name in folder.names("rows")]
    rows = read_slices(folder, names, ROW, n_groups, number, number + 1)
    dataset = open_lance(dataset_uri(job.uri), job.version)
    updated, removed = [], []
    for identifier in fragment_ids:
        of_fragment = rows[rows["address"] >> 32 == identifier]
        gone = of_fragment["address"][of_fragment["mark"] == REPLACED]
        fragment = dataset.get_fragment(identifier)
        if job.delete:
            every = fragment.scanner(columns=[], with_row_address=True).to_table()["_rowaddr"].to_numpy()
            gone = np.setdiff1d(every.astype(np.int64), of_fragment["address"][of_fragment["mark"] == KEPT])
        if len(gone) == fragment.count_rows():
            removed.append(identifier)
        elif len(gone):
            updated.append(fragment.delete_rows((gone & 0xFFFFFFFF).tolist()).to_json())
    return updated, removed
