"""Ids that come twice in a corpus, found without holding all of them anywhere.

Each part writes a digest and the position of each of its ids, sorted by digest, in a slice for each first byte. Whoever
looks for duplicates reads some slices of all parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from rabtriever.cluster.journal import Job, Journal, part_name
from rabtriever.cluster.parts import Part
from rabtriever.cluster.rows import read_documents
from rabtriever.cluster.slices import count_rows, pack_slices, read_slices
from rabtriever.errors import InputError, first_line
from rabtriever.sources.tables import Columns

ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("position", "<i8")])
BUCKETS = 256  # first bytes of a digest
IDS_PER_TASK = 2**21  # whose duplicates are looked for at a time: 50 MB
ALL_BAD = 16  # rows of which none is a document: not one row is at fault, but the source


class IdReader:
    """Writes the ids of a part; Ray Data calls it.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, part: Part) -> int:
        """Returns the number of documents of a part; raises InputError if it cannot be read."""
        digests, positions, faults = [], [], list[InputError]()
        try:
            for position, _, found in read_documents(part, self.job.columns):
                if isinstance(found, InputError):
                    faults.append(found)
                else:
                    digests.append(hashlib.blake2b(found.id.encode(), digest_size=16).digest())
                    positions.append(position)
        except (OSError, ValueError) as error:
            raise InputError(f"{part.place}: cannot be read ({first_line(error)}); repair the file") from None
        # Which documents are gone is not known while a row cannot be read.
        if faults and (self.job.delete or (len(faults) >= ALL_BAD and not digests)):
            raise faults[0]
        Journal(self.job).write(part, "ids", _pack(b"".join(digests), positions))
        return len(digests)


def count_ids(job: Job, parts: Sequence[Part]) -> int:
    """Returns the number of ids of parts that were read."""
    return count_rows(Journal(job).folder, [_id_file(part) for part in parts], BUCKETS)


def first_duplicate(job: Job, first_bytes: tuple[int, int]) -> list[int]:
    """Looks for ids that come twice among those whose digests begin with one of some bytes.

    Args:
        job: The job, of which all parts were read.
        first_bytes: The first of them, and the first that is none.

    Returns:
        The positions of the id whose second one comes first in the corpus; empty if all ids differ.
    """
    names = [_id_file(part) for part in job.parts]
    ids = read_slices(Journal(job).folder, names, ROW, BUCKETS, *first_bytes)
    ids = ids[np.lexsort((ids["position"], ids["low"], ids["high"]))]
    again = np.flatnonzero((ids["high"][1:] == ids["high"][:-1]) & (ids["low"][1:] == ids["low"][:-1])) + 1
    if not len(again):
        return []
    second = again[np.argmin(ids["position"][again])]
    positions: list[int] = ids["position"][second - 1 : second + 1].tolist()
    return positions


def buckets(n_ids: int) -> list[tuple[int, int]]:
    """Returns ranges of first bytes, each of so many ids as a task holds."""
    tasks = min(BUCKETS, max(1, -(-n_ids // IDS_PER_TASK)))
    edges = np.linspace(0, BUCKETS, tasks + 1).astype(int).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))


def name_duplicate(parts: list[Part], columns: Columns, positions: list[int]) -> InputError:
    """Returns the error of an id that stands at two positions of a corpus."""
    places = []
    for wanted in positions:
        part = next(part for part in reversed(parts) if part.offset + part.first <= wanted)
        for position, place, found in read_documents(part, columns):
            if position == wanted and not isinstance(found, InputError):
                places.append(place)
                identifier = found.id
    return InputError(f"document id {identifier!r}: {places[1]} and {places[0]}; ids should be unique, rename one")


def _pack(digests: bytes, positions: list[int]) -> bytes:
    pairs = np.frombuffer(digests, ">u8").reshape(-1, 2).astype("<u8")
    rows = np.empty(len(pairs), ROW)
    rows["high"], rows["low"], rows["position"] = pairs[:, 0], pairs[:, 1], positions
    rows = rows[np.lexsort((rows["low"], rows["high"]))]
    return pack_slices(rows, rows["high"] >> np.uint64(56), BUCKETS)


def _id_file(part: Part) -> str:
    return f"ids/{part_name(part)}"
