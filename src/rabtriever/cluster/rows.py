"""The documents of a part of a corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rabtriever.cluster.parts import Part, open_lance
from rabtriever.data import Document
from rabtriever.data.beir import decode_line, parse_row
from rabtriever.errors import InputError
from rabtriever.index.schema import METADATA_KEY
from rabtriever.persistence.object_store import filesystem
from rabtriever.sources.reading import check_document
from rabtriever.sources.tables import Columns, columns_without_bytes
from rabtriever.sources.tools import is_tool

DOCUMENT_COLUMNS = ["id", "title", "text", "metadata"]  # of an index's table
BEIR_COLUMNS = ("_id", "title", "text", "metadata")
ROWS_PER_READ = 1024
TAIL_BYTES = 2**16  # read at a time beyond a part, for the end of its last line

Placed = tuple[int, str, Document | InputError]
"""Position in the corpus, place for messages, and the document, or why the row is none."""


def read_documents(part: Part, columns: Columns) -> Iterator[Placed]:
    """Yields the documents of a part in their order.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    rows = _tables if part.kind in ("parquet", "lance") else _lines
    for number, place, raw in rows(part):
        try:
            row = raw if isinstance(raw, dict) else parse_row(place, decode_line(place, raw, number == 0))
            if part.kind == "beir":
                document = Columns().document(place, {name: row[name] for name in BEIR_COLUMNS if name in row})
            else:
                document = columns.document(place, row)
            check_document(place, document)
        except InputError as error:
            yield part.offset + number, place, error
        else:
            yield part.offset + number, place, document


def require_documents(part: Part, columns: Columns) -> None:
    """Raises InputError if a corpus begins with what is no document, or with a tool of a list of tools."""
    for _, _, found in read_documents(part, columns):
        if isinstance(found, InputError):
            raise found
        break
    if part.kind == "jsonl" and columns == Columns():
        for number, place, raw in _lines(part):
            if is_tool(parse_row(place, decode_line(place, raw, number == 0))):
                raise InputError(f"{part.uri}: a list of tools; it needs no cluster: leave --ray out")
            break


def _lines(part: Part) -> Iterator[tuple[int, str, bytes]]:
    """Yields the byte at which each line of a part begins that is not blank, its place, and the line."""
    files, path = filesystem(part.uri)
    with files.open_input_file(path) as file:
        before = min(1, part.first)  # a line begins behind the end of one
        held = file.read_at(part.last - part.first + before, part.first - before)
        begin = held.find(b"\n") + 1 if before else 0
        if before and not begin:  # one line from before the part to behind it
            return
        end, tail = part.last, b""
        while not held.endswith(b"\n") and b"\n" not in tail and (tail := file.read_at(TAIL_BYTES, end)):
            held, end = held + tail, end + len(tail)
    first, last = part.first - before, part.last - part.first + before
    while begin < last:
        line_end = held.find(b"\n", begin) + 1 or len(held)
        if (line := held[begin:line_end]).strip():
            yield first + begin, f"{part.uri}, byte {first + begin}", line
        begin = line_end


def _tables(part: Part) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields the number of each row of a part, its place, and its values by column."""
    number = part.first
    for row in _lance_rows(part) if part.kind == "lance" else _parquet_rows(part):
        yield number, f"{part.uri}, row {number + 1}", dict(row)
        number += 1


def _parquet_rows(part: Part) -> Iterator[Mapping[str, Any]]:
    from pyarrow.parquet import ParquetFile

    files, path = filesystem(part.uri)
    with files.open_input_file(path) as opened:
        file = ParquetFile(opened)
        kept = columns_without_bytes(file.schema_arrow)
        begin = 0
        for group in range(file.metadata.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            if begin < part.last and end > part.first:
                for batch in file.iter_batches(ROWS_PER_READ, row_groups=[group], columns=kept):
                    skipped = min(batch.num_rows, max(0, part.first - begin))
                    yield from batch.slice(skipped, max(0, part.last - begin - skipped)).to_pylist()
                    begin += batch.num_rows
                    if begin >= part.last:
                        return
            begin = end


def _lance_rows(part: Part) -> Iterator[Mapping[str, Any]]:
    dataset = open_lance(part.uri, part.stamp)
    ours = METADATA_KEY in (dataset.schema.metadata or {})
    kept = DOCUMENT_COLUMNS if ours else columns_without_bytes(dataset.schema)
    scan = {"columns": kept, "offset": part.first, "limit": part.last - part.first, "batch_size": ROWS_PER_READ}
    for batch in dataset.to_batches(**scan, scan_in_order=True):
        for row in batch.to_pylist():
            yield {**row, "metadata": json.loads(row["metadata"])} if ours else row
