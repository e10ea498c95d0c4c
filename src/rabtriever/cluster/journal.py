"""What a job of encoding has done, beside its table: a second run goes on from there.

=====================  ==============================================================================================
job.json               What is encoded, from which version of the table. It alone says that there is a job.
<job>/ids/<part>       Digests of the part's ids (:mod:`rabtriever.cluster.ids`).
<job>/rows/<part>      Of an update: the rows of the part's documents (:mod:`rabtriever.cluster.replacing`).
<job>/parts/<part>     The part's fragments and counts; written last, so that a part is done or not.
=====================  ==============================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rabtriever.cluster.parts import Part, SourceFile, make_parts
from rabtriever.cluster.slices import READERS
from rabtriever.errors import InputError, StorageError
from rabtriever.index.table import ENCODING
from rabtriever.persistence.files import Folder
from rabtriever.sources.tables import Columns

JOB = "job.json"


@dataclass(frozen=True)
class Job:
    """What is encoded.

    Attributes:
        id: Random; the transaction that ends the job names it.
        uri: The index.
        files: The corpus.
        columns: Of its tables.
        update: Whether the index existed before.
        delete: Whether documents that the corpus lacks are removed.
        part_bytes: About the size of a part.
        version: The table's, from which the job began.
        added: Where its documents begin in the order of insertion.
    """

    id: str
    uri: str
    files: list[SourceFile]
    columns: Columns
    update: bool
    delete: bool
    part_bytes: int
    version: int
    added: int

    @property
    def parts(self) -> list[Part]:
        """The corpus's parts."""
        return make_parts(self.files, self.part_bytes)

    @classmethod
    def from_json(cls, text: bytes) -> Job:
        """Reads what :meth:`to_json` wrote."""
        values = json.loads(text)
        files = [SourceFile(**file) for file in values.pop("files")]
        return cls(files=files, columns=Columns(**values.pop("columns")), **values)

    def to_json(self) -> bytes:
        """Returns the job as JSON."""
        return json.dumps(asdict(self)).encode()

    def require_unchanged(self, files: list[SourceFile]) -> None:
        """Raises InputError if files of the corpus changed after the job began; of Lance it reads an old version."""
        mine, now = ([file for file in of if file.kind != "lance"] for of in (self.files, files))
        replace(self, files=mine).require_same(replace(self, files=now))

    def require_same(self, other: Job) -> None:
        """Raises InputError if an unfinished job, which this is, differs from the one that is to go on with it."""
        if self.files != other.files or self.columns != other.columns:
            fault = "from another source, or this one has changed since"
        elif (self.update, self.delete) != (other.update, other.delete):
            fault = "with other flags"
        else:
            return
        remedy = f"run that command again, or remove {self.uri}{f'/{ENCODING}' if self.update else ''} to begin anew"
        raise InputError(f"{self.uri}: an unfinished job encodes {fault}; {remedy}")


@dataclass(frozen=True)
class Failure:
    """A document that was not encoded: its id, empty if none could be read, its place in the source, and the reason."""

    id: str
    place: str
    reason: str


@dataclass
class Record:
    """What came of a part.

    Attributes:
        fragments: Lance's description of each, as JSON.
        added: Number of documents that were encoded and are new.
        changed: Number of those that replace another of their ids.
        unchanged: Number of those that the index holds as they are.
        kept: Number of rows of the index that stay: of unchanged documents, and of changed ones that failed.
        failed: The documents that could not be encoded.
    """

    fragments: list[Any] = field(default_factory=list)
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    kept: int = 0
    failed: list[Failure] = field(default_factory=list)


class Journal:
    """What a job has done."""

    def __init__(self, job: Job) -> None:
        self.folder = Folder(f"{job.uri}/{ENCODING}/{job.id}")

    def remaining(self, parts: Sequence[Part], kind: str) -> list[Part]:
        """Returns the parts without a file of a kind."""
        done = set(self.folder.names(kind))
        return [part for part in parts if part_name(part) not in done]

    def write(self, part: Part, kind: str, data: bytes) -> None:
        """Writes a part's file of a kind."""
        self.folder.write(f"{kind}/{part_name(part)}", data)

    def is_done(self, part: Part) -> bool:
        """Returns whether a part has its record."""
        return self.folder.exists(f"parts/{part_name(part)}")

    def finish(self, part: Part, record: Record) -> None:
        """Writes a part's record."""
        self.write(part, "parts", json.dumps(asdict(record)).encode())

    def records(self, parts: Sequence[Part]) -> list[Record]:
        """Returns the records of finished parts; raises StorageError for one that is missing."""
        with ThreadPoolExecutor(READERS) as readers:
            return list(readers.map(self._record, parts))

    def _record(self, part: Part) -> Record:
        name = f"parts/{part_name(part)}"
        if (text := self.folder.read(name)) is None:
            raise StorageError(f"{self.folder.uri}/{name}: the record of an encoded part is gone; restore it")
        values = json.loads(text)
        return Record(**{**values, "failed": [Failure(**one) for one in values["failed"]]})


def unfinished_job(uri: str) -> Job | None:
    """Returns the job of an index that is not finished; None if there is none."""
    text = Folder(f"{uri}/{ENCODING}").read(JOB)
    return Job.from_json(text) if text else None


def begin(job: Job) -> None:
    """Notes that a job begins, without anything of an earlier one."""
    folder = Folder(f"{job.uri}/{ENCODING}")
    folder.remove()
    folder.write(JOB, job.to_json())


def end(job: Job) -> None:
    """Notes that a job is over; whenever this is interrupted, no job is there without its records."""
    folder = Folder(f"{job.uri}/{ENCODING}")
    folder.delete(JOB)
    folder.remove()


def part_name(part: Part) -> str:
    """Returns the name of a part's files."""
    return f"{part.number:06d}"
