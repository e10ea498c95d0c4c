"""Tables with named columns: JSONL, CSV, TSV and Parquet files, and rows of other readers."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from math import isnan
from pathlib import Path
from typing import Any

from rabtriever.data import Document
from rabtriever.data.beir import read_rows
from rabtriever.errors import InputError, first_line, shorten
from rabtriever.sources.places import Placed, unreadable
from rabtriever.sources.tools import is_tool, placed_tools

TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
ID_COLUMNS = ("_id", "id", "name")
TEXT_COLUMNS = ("text", "description", "content")
TITLE_COLUMNS = ("title", "name")

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, and its values by column."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns of id, text and title; None: the first usual one that a row has."""

    id: str | None = None
    text: str | None = None
    title: str | None = None

    def document(self, place: str, row: Mapping[str, Any]) -> Document:
        """Returns a row as a document; the columns that are neither id, text nor title become its metadata.

        Raises:
            InputError: a column is missing, or its value no text.
        """
        id_column = _column(row, self.id, ID_COLUMNS, place)
        text_column = _column(row, self.text, TEXT_COLUMNS, place)
        title_column = _column(row, self.title, TITLE_COLUMNS, place)
        if id_column is None or text_column is title_column is None:
            missing = " or ".join(map(repr, ID_COLUMNS if id_column is None else TEXT_COLUMNS))
            raise InputError(f"{place}: no column {missing}; there are {_names(row)}: name the right one")
        identifier = row[id_column]
        if isinstance(identifier, int) and not isinstance(identifier, bool):
            identifier = str(identifier)
        if not isinstance(identifier, str) or not identifier.strip():
            raise InputError(f"{place}: {id_column} is {shorten(identifier)}; give a string or an integer as the id")
        metadata: dict[str, Any] = {}
        for name, value in row.items():
            if name == "metadata" and isinstance(value, Mapping):
                metadata |= value
            elif name not in (id_column, text_column, title_column) and (plain := _plain(value)) is not None:
                metadata[str(name)] = plain
        return Document(identifier, _text(row, text_column, place), _text(row, title_column, place), metadata)


def table_documents(path: Path, columns: Columns) -> Iterator[Placed]:
    """Yields the documents of a file whose suffix is one of :data:`TABLES`; raises InputError for a malformed one."""
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": parquet_rows}
    if reader := readers.get(path.suffix.lower()):
        return row_documents(reader(path), columns)
    if columns == Columns() and any(is_tool(row) for _, row in read_rows(path)):
        return placed_tools(str(path), "", (row for _, row in read_rows(path)))
    return row_documents(read_rows(path), columns)


def row_documents(rows: Iterable[Row], columns: Columns) -> Iterator[Placed]:
    """Yields rows as documents."""
    for place, row in rows:
        yield place, columns.document(place, row)


def parquet_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a Parquet file; raises InputError if it is none."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            kept = columns_without_bytes(file.schema_arrow)
            if left_out := [name for name in file.schema_arrow.names if name not in kept]:
                told = f"no text and no metadata, since they hold bytes: {', '.join(left_out)}"
                warnings.warn(f"{path}: columns left out, {told}", stacklevel=2)
            for batch in file.iter_batches(batch_size=1024, columns=kept if left_out else None):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # a time of nanoseconds, without pandas
        raise InputError(f"{path}: not a Parquet file that can be read ({first_line(error)}); write it anew") from None


def columns_without_bytes(schema: Any) -> list[str]:  # noqa: ANN401
    """Returns the names of an Arrow schema's columns that hold no bytes: text and metadata have none."""
    return [field.name for field in schema if not _has_bytes(field.type)]


def _has_bytes(kind: Any) -> bool:  # noqa: ANN401
    """Returns whether values of an Arrow type hold bytes, such as those of an image."""
    from pyarrow import types

    of_bytes = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return any(test(kind) for test in of_bytes) or any(map(_has_bytes, inner))


def _csv_rows(path: Path) -> Iterator[Row]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(2**31 - 1)  # 128 KiB otherwise
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, restkey=None, strict=True)
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    fault = f"not as many fields as the header, which has {len(reader.fieldnames or ())}"
                    remedy = f"quote fields that hold {delimiter!r} or a line's end"
                    raise InputError(f"{path}, line {line}: {fault}; {remedy}")
                row.pop("", None)  # numbers of rows, as pandas writes them
                yield f"{path}, line {line}", row
    except csv.Error as error:
        raise InputError(f"{path}, line {line + 1}: malformed CSV ({error}); correct it") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; convert the file") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _column(row: Mapping[str, Any], given: str | None, usual: tuple[str, ...], place: str) -> str | None:
    """Returns the column that was given, or the first usual one of a row, if there is any."""
    if given is None:
        return next((name for name in usual if name in row), None)
    if given not in row:
        raise InputError(f"{place}: no column {given!r}; there are {_names(row)}")
    return given


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "none"


def _text(row: Mapping[str, Any], column: str | None, place: str) -> str:
    value = None if column is None else row[column]
    if value is not None and not isinstance(value, str):
        raise InputError(f"{place}: {column} is {shorten(value)}; it should be a text, name another column")
    return value or ""


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Returns a value as JSON holds it; None for one that says nothing."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):  # Arrow's maps are lists of pairs
        return [_plain(part) for part in value]
    if isinstance(value, float) and isnan(value):
        return None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    return value
