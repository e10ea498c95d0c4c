"""The parts of a corpus that workers encode: ranges of bytes of JSONL, of rows of Parquet and Lance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rabtriever.errors import InputError, NotFoundError, first_line
from rabtriever.extras import needs
from rabtriever.persistence.folder import normalized_uri
from rabtriever.persistence.object_store import filesystem, storage_options
from rabtriever.sources.hub import HUB

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".lance": "lance"}
INDEX, BEIR = "documents.lance", "corpus.jsonl"  # in a folder they are all of it

PART_BYTES = 2**22
MIN_PART_BYTES = 2**12
MAX_PARTS = 2**15  # of a larger corpus the parts are larger: what the driver holds does not grow with it
PARTS_PER_WORKER = 8  # of a small corpus, so that workers end at about the same time
PARTS_PER_ROW_GROUP = 16  # each reads its row group from the beginning
LANCE_ROW_BYTES = 512  # what a row is taken for


@dataclass(frozen=True)
class SourceFile:
    """A file of a corpus.

    Attributes:
        uri: Path or URI.
        kind: ``jsonl``, ``beir`` (JSONL without other columns), ``parquet`` or ``lance``.
        length: Bytes of JSONL; rows of others.
        unit_bytes: Bytes of a unit of ``length``, about.
        least: Units of a part, at least.
        stamp: Differs when the file has changed; of Lance the version.
    """

    uri: str
    kind: str
    length: int
    unit_bytes: float
    least: int
    stamp: int


@dataclass(frozen=True)
class Part:
    """A range of a file: the rows ``first`` to ``last`` - 1, of JSONL the lines that begin in these bytes.

    Attributes:
        number: In the order of the corpus.
        uri: The file's.
        kind: The file's.
        stamp: The file's.
        first: Its first byte or row.
        last: The first behind it.
        offset: Sum of the lengths of the files before: ``offset`` + byte or row ascends with the order of the corpus.
    """

    number: int
    uri: str
    kind: str
    stamp: int
    first: int
    last: int
    offset: int

    @property
    def place(self) -> str:
        """Names it in messages."""
        unit = "bytes" if self.kind in ("jsonl", "beir") else "rows"
        return f"{self.uri}, {unit} {self.first} to {self.last}"


def source_files(source: str | Path) -> list[SourceFile]:
    """Returns the files of a corpus, of a folder in the order of their paths.

    Args:
        source: Path or URI of a JSONL, Parquet or Lance file, a BEIR folder, an index, or a folder of such files.

    Raises:
        NotFoundError: nothing is there.
        InputError: another kind of source, or it cannot be read.
    """
    if str(source).startswith(HUB):
        raise _unknown(source)
    uri = normalized_uri(source).rstrip("/")
    try:
        files, path = filesystem(uri)
        return [_describe(files, info, uri[: -len(path)], kind) for info, kind in _found(files, path, source)]
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}: cannot be read ({first_line(error)}); check the address and your rights") from None


def part_bytes(files: list[SourceFile], workers: int) -> int:
    """Returns how large the parts of a corpus should be, in bytes."""
    total = round(sum(file.length * file.unit_bytes for file in files))
    several_each = max(MIN_PART_BYTES, total // (workers * PARTS_PER_WORKER))
    return max(min(PART_BYTES, several_each), total // MAX_PARTS)


def make_parts(files: list[SourceFile], size: int) -> list[Part]:
    """Returns the parts of a corpus, each of about ``size`` bytes."""
    parts: list[Part] = []
    offset = 0
    for file in files:
        step = max(1, file.least, round(size / file.unit_bytes))
        for first in range(0, file.length, step):
            last = min(first + step, file.length)
            parts.append(Part(len(parts), file.uri, file.kind, file.stamp, first, last, offset))
        offset += file.length
    return parts


def _found(files: FileSystem, path: str, source: str | Path) -> list[tuple[FileInfo, str]]:
    """Returns the files of a source and their kinds."""
    from pyarrow.fs import FileSelector, FileType

    info = files.get_file_info(path)
    if info.type == FileType.NotFound:
        raise NotFoundError(f"{source}: no such file or folder; give JSONL, Parquet or Lance")
    if kind := _kind(info):
        return [(info, kind)]
    if info.type == FileType.File:
        raise _unknown(source)
    for name, kind in ((INDEX, "lance"), (BEIR, "beir")):
        if (inner := files.get_file_info(f"{path}/{name}")).type != FileType.NotFound:
            return [(inner, kind)]
    below = sorted(files.get_file_info(FileSelector(path, recursive=True)), key=lambda one: one.path)
    found = [(one, kind) for one in below if _is_plain(one.path[len(path) :]) and (kind := _kind(one))]
    if not found:
        raise _unknown(source)
    return found


def _kind(info: FileInfo) -> str | None:
    from pyarrow.fs import FileType

    kind = KINDS.get(PurePosixPath(info.path).suffix.lower())
    return kind if (info.type == FileType.Directory) == (kind == "lance") else None


def _is_plain(path: str) -> bool:
    """Returns whether a file is neither hidden, nor a mark of the software that wrote it, nor inside Lance's."""
    parts = PurePosixPath(path.lstrip("/")).parts
    return not any(part.startswith((".", "_")) for part in parts) and not any(".lance" in part for part in parts[:-1])


def _describe(files: FileSystem, info: FileInfo, scheme: str, kind: str) -> SourceFile:
    uri = scheme + info.path
    if kind == "lance":
        dataset = open_lance(uri)
        return SourceFile(uri, kind, dataset.count_rows(), LANCE_ROW_BYTES, 1, dataset.version)
    changed = info.mtime_ns or 0
    if kind != "parquet":
        return SourceFile(uri, kind, info.size, 1, 1, changed)
    from pyarrow.parquet import ParquetFile

    with files.open_input_file(info.path) as opened:
        footer = ParquetFile(opened).metadata
        largest = max((footer.row_group(i).num_rows for i in range(footer.num_row_groups)), default=0)
    rows = footer.num_rows
    return SourceFile(uri, kind, rows, max(1, info.size / max(1, rows)), largest // PARTS_PER_ROW_GROUP, changed)


def open_lance(uri: str, version: int | None = None) -> Any:  # noqa: ANN401
    """Opens a Lance dataset; raises ValueError if there is none."""
    with needs("cluster"):
        import lance
    return lance.dataset(uri, version=version, storage_options=storage_options(uri) or None)


def _unknown(source: str | Path) -> InputError:
    kinds = "neither JSONL, Parquet nor Lance, nor a folder of them"
    return InputError(f"{source}: {kinds}; other sources need no cluster: leave --ray out")
