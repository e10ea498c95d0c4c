"""A list of pairs: the ids of queries and documents that belong together in some way."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rabtriever.data.beir import read_lines, read_rows, read_string
from rabtriever.data.types import RetrievalData
from rabtriever.errors import InputError, NotFoundError
from rabtriever.persistence.folder import local_path

_HEADER = ("query-id", "corpus-id")


def read_pairs(path: str | Path, data: RetrievalData) -> np.ndarray:
    """Reads pairs of a data set's queries and documents.

    Args:
        path: Path or URI. Two ids a line, of the query and of the document, with a tab between, under a header
            ``query-id``, ``corpus-id`` or none; or, in a file that ends with ``.jsonl``, objects with ``query`` and
            ``document``.
        data: What the ids name.

    Returns:
        int64 (n, 2) of positions in ``data.queries`` and ``data.documents``.

    Raises:
        NotFoundError: the file is missing.
        InputError: a line of another shape, or an id that the data set lacks; the message names it and the line.
    """
    file = local_path(path)
    if not file.is_file():
        raise NotFoundError(f"{path} is missing: give a file of pairs, a query's and a document's id a line")
    position = [{name: i for i, name in enumerate(ids)} for ids in (data.queries, data.documents)]
    found = array("q")
    for location, ids in _json_pairs(file) if file.suffix == ".jsonl" else _tab_pairs(file):
        for kind, known, name in zip(("query", "document"), position, ids, strict=True):
            if name not in known:
                raise InputError(f"{location}: {kind} {name!r} is not in {data.name}: correct it or drop the line")
            found.append(known[name])
    if not found:
        raise InputError(f"{path} is empty: give at least one pair")
    return np.frombuffer(found, np.int64).reshape(-1, 2)


def _json_pairs(file: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    for location, row in read_rows(file):
        yield location, (read_string(row, "query", location), read_string(row, "document", location))


def _tab_pairs(file: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    for number, (location, line) in enumerate(read_lines(file)):
        ids = tuple(line.split("\t"))
        if len(ids) != 2:
            raise InputError(f"{location}: {len(ids)} tab-separated columns; give two, a query's and a document's id")
        if number or ids != _HEADER:
            yield location, ids
