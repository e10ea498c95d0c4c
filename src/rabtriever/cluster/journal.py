"""What a job of encoding has done, beside its table: a second run goes on from there.

=====================  ==============================================================================================
job.json               What is encoded, from which version of the table.
model.json             The retriever: of a new index the one that the first worker loaded.
ids/<part>             Digests of the part's ids (:mod:`rabtriever.cluster.ids`).
attempts/<part>        How often the part was begun, and why it failed the last time.
rows/<part>            Of an update: the rows that hold the part's documents, and whether they are replaced.
parts/<part>           Its fragments and counts; written last, so that a part is done or not.
=====================  ==============================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rabtriever.cluster.parts import Part, SourceFile, make_parts
from rabtriever.errors import InputError
from rabtriever.index.schema import ModelInfo
from rabtriever.index.table import ENCODING
from rabtriever.persistence.files import Folder
from rabtriever.scoring.layout import ScoreLayout
from rabtriever.sources.tables import Columns

READERS = 16  # records that are read at a time


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
    """The journal of the job at ``uri``, if there is one."""

    def __init__(self, uri: str) -> None:
        self.folder = Folder(f"{uri}/{ENCODING}")

    def job(self) -> Job | None:
        """Returns the job that is not finished; None if there is none."""
        text = self.folder.read("job.json")
        return Job.from_json(text) if text else None

    def begin(self, job: Job, model: ModelInfo | None) -> None:
        """Writes down what is encoded, and by which retriever if that is known."""
        if model:
            self.folder.write("model.json", json.dumps(asdict(model)).encode())
        self.folder.write("job.json", job.to_json())

    def require_model(self, model: ModelInfo, uri: str) -> None:
        """Raises InputError unless a worker's retriever is that of the job, which it becomes if there is none."""
        text = self.folder.read("model.json")
        if text is None:
            self.folder.write("model.json", json.dumps(asdict(model)).encode())
        else:
            stored = json.loads(text)
            ModelInfo(**{**stored, "layout": ScoreLayout(**stored["layout"])}).check(model.fingerprint, uri)

    def remaining(self, parts: Sequence[Part], folder: str) -> list[Part]:
        """Returns the parts without a file in one of its folders."""
        done = self.folder.names(folder)
        return [part for part in parts if _name(part) not in done]

    def is_done(self, part: Part) -> bool:
        """Returns whether a part has its record."""
        return self.folder.read(f"parts/{_name(part)}") is not None

    def begin_attempt(self, part: Part) -> tuple[int, str]:
        """Counts that a part is begun; returns how often it was before, and why it failed then."""
        before, reason = self._attempts(part)
        self._write_attempts(part, before + 1, "its worker ended")
        return before, reason

    def fail_attempt(self, part: Part, reason: str) -> None:
        """Notes why a part failed that will be tried again."""
        self._write_attempts(part, self._attempts(part)[0], reason)

    def forget_attempts(self) -> None:
        """Counts anew."""
        self.folder.remove("attempts")

    def finish(self, part: Part, record: Record, rows: np.ndarray) -> None:
        """Writes a part's record, and its ``rows``, int64 (n, 2): addresses, and whether each is replaced."""
        if len(rows):
            self.folder.write(f"rows/{_name(part)}", rows.tobytes())
        self.folder.write(f"parts/{_name(part)}", json.dumps(asdict(record)).encode())

    def records(self, parts: Sequence[Part]) -> list[Record]:
        """Returns the records of finished parts."""
        with ThreadPoolExecutor(READERS) as readers:
            return list(readers.map(self._record, parts))

    def rows(self, parts: Sequence[Part]) -> np.ndarray:
        """Returns the rows of finished parts, int64 (n, 2), as in :meth:`finish`."""
        with ThreadPoolExecutor(READERS) as readers:
            texts = readers.map(lambda part: self.folder.read(f"rows/{_name(part)}") or b"", parts)
            return np.frombuffer(b"".join(texts), np.int64).reshape(-1, 2)

    def write_ids(self, part: Part, data: bytes) -> None:
        """Writes the digests of a part's ids."""
        self.folder.write(id_file(part.number), data)

    def remove(self) -> None:
        """Ends the job."""
        self.folder.remove()

    def _record(self, part: Part) -> Record:
        values = json.loads(self.folder.read(f"parts/{_name(part)}") or b"{}")
        return Record(**{**values, "failed": [Failure(**one) for one in values.get("failed", ())]})

    def _attempts(self, part: Part) -> tuple[int, str]:
        times, _, reason = (self.folder.read(f"attempts/{_name(part)}") or b"0\n").decode().partition("\n")
        return int(times), reason

    def _write_attempts(self, part: Part, times: int, reason: str) -> None:
        self.folder.write(f"attempts/{_name(part)}", f"{times}\n{reason}".encode())


def id_file(number: int) -> str:
    """Returns the name in the journal of the digests of a part's ids."""
    return f"ids/{number:06d}"


def _name(part: Part) -> str:
    return f"{part.number:06d}"
