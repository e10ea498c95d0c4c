"""BEIR folders and zips: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``, checked line by line.

Errors name file and line. Accepted are a byte order mark, Windows line ends, blank lines and a missing ``qrels``.
Judgements of documents that the corpus lacks are kept, with a warning: a measure counts them as not found.
"""

from __future__ import annotations

import json
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from lzma import LZMAError
from pathlib import Path
from typing import Any

from rabtriever.data.metadata import why_not_storable
from rabtriever.data.types import Document, Qrels, RetrievalData
from rabtriever.errors import InputError, NotFoundError, first_line, has_half_character, shorten
from rabtriever.persistence.folder import local_path

Place = Path | zipfile.Path  # a file or folder, also one in a zip

# Permissions; zips that are damaged, encrypted (RuntimeError) or packed in a way that Python does not know.
UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, LZMAError)

_QRELS_HEADER = ("query-id", "corpus-id", "score")
_KINDS = {str: "string", dict: "JSON object", list: "list", bool: "boolean, true or false"}


def load_data(source: str | Path) -> RetrievalData:
    """Loads a BEIR folder into memory; the order is that of the files.

    Args:
        source: Folder with ``corpus.jsonl``, ``queries.jsonl`` and, if there are labels, ``qrels/<split>.tsv``; or a
            zip of these files, or of one folder that holds them.

    Raises:
        NotFoundError: a file is missing.
        InputError: a file is malformed; the message names it and the line.
    """
    path = local_path(source)
    folder = _unzipped(path)
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is no folder: give a BEIR folder with corpus.jsonl, queries.jsonl and qrels/")
    documents = {document.id: document for document in _documents(_existing(folder / "corpus.jsonl"))}
    queries, generated = _read_queries(_existing(folder / "queries.jsonl"))
    labels = folder / "qrels"
    files: list[Place] = list(labels.iterdir()) if labels.is_dir() else []
    qrels = {
        file.name.removesuffix(".tsv"): _read_qrels(file, queries, documents)
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".tsv") and not file.name.startswith(".")
    }
    name = path.resolve().name
    name = name[: -len(".zip")] if name.lower().endswith(".zip") else name
    return RetrievalData(name, documents, queries, qrels, generated)


def load_requests(corpus: str | Path, queries: str | Path) -> RetrievalData:
    """Loads a corpus and unlabelled queries for it.

    Args:
        corpus: As for :func:`read_corpus`.
        queries: A JSONL file with ``text`` and optionally ``_id`` and ``metadata`` a line.

    Raises:
        NotFoundError, InputError: as of :func:`load_data`.
    """
    return add_requests(load_corpus(corpus), queries)


def load_corpus(corpus: str | Path) -> RetrievalData:
    """Loads a corpus (as for :func:`read_corpus`) without any query."""
    documents = {document.id: document for document in read_corpus(corpus)}
    return RetrievalData(Path(corpus).resolve().stem, documents, {}, {})


def add_requests(data: RetrievalData, path: str | Path) -> RetrievalData:
    """Returns a data set with the unlabelled queries of a JSONL file, too; raises as :func:`load_requests`."""
    file = local_path(path)
    if not file.is_file():
        raise NotFoundError(f"{path} is missing: give a JSONL file of requests, each line with a text")
    found, generated = _read_queries(file, named=False)
    if shared := data.queries.keys() & found.keys():
        raise InputError(f"{path}: _id {min(shared)!r} is a query of {data.name}, too; ids should be unique")
    return replace(data, queries={**data.queries, **found}, generated=data.generated | generated)


def read_corpus(path: str | Path) -> Iterator[Document]:
    """Reads a corpus document by document, in file order; only its ids are held in memory.

    Args:
        path: A JSONL file with ``_id``, ``text`` and optionally ``title`` and ``metadata`` a line, or a folder or zip
            that holds it as ``corpus.jsonl``.

    Raises:
        NotFoundError: the file is missing (raised at once).
        InputError: a line is malformed (raised when it is reached).
    """
    place = _unzipped(local_path(path))  # it is opened when the first document is asked for
    return _documents(_existing(place / "corpus.jsonl" if place.is_dir() else place))


def _unzipped(path: Path) -> Place:
    """Returns a path, of a zip the folder in it that holds ``corpus.jsonl``."""
    if path.suffix.lower() != ".zip" or not path.is_file():
        return path
    try:
        root = zipfile.Path(path)
    except UNREADABLE as error:
        raise InputError(f"{path}: not a zip file that can be read ({first_line(error)}); download it again") from None
    folders = [root, *(entry for entry in root.iterdir() if entry.is_dir())]
    return next((folder for folder in folders if (folder / "corpus.jsonl").is_file()), root)


def _documents(path: Place) -> Iterator[Document]:
    seen: dict[str, str] = {}
    for location, row in read_rows(path):
        document = Document(
            _unique_id(row, location, seen),
            read_string(row, "text", location),
            read_string(row, "title", location),
            read_value(row, "metadata", dict, location),
        )
        if why := why_not_storable(document.metadata):
            raise InputError(f"{location}: metadata of document {document.id!r}: {why}")
        if not document.content:
            raise InputError(f"{location}: title and text of document {document.id!r} are both blank: give one of them")
        yield document
    if not seen:
        raise InputError(f"{path} is empty: a corpus needs at least one document")


def _read_queries(path: Place, named: bool = True) -> tuple[dict[str, str], frozenset[str]]:
    """Returns query id -> text, and the ids of those that an LLM wrote."""
    seen: dict[str, str] = {}
    queries, generated = {}, set()
    for number, (location, row) in enumerate(read_rows(path), start=1):
        if not named:
            row.setdefault("_id", str(number))
        query = _unique_id(row, location, seen)
        queries[query] = read_string(row, "text", location)
        if not queries[query].strip():
            raise InputError(f"{location}: the text of query {query!r} is blank: fill it in or leave the query out")
        if read_value(row, "metadata", dict, location).get("generated") is True:
            generated.add(query)
    if not queries:
        raise InputError(f"{path} is empty: give at least one query")
    return queries, frozenset(generated)


def _read_qrels(path: Place, queries: dict[str, str], documents: dict[str, Document]) -> Qrels:
    lines = read_lines(path)
    location, header = next(lines, (f"{path}, line 1", ""))
    if tuple(header.split("\t")) != _QRELS_HEADER:
        raise InputError(f"{location}: no header; it should read {'<TAB>'.join(_QRELS_HEADER)}")
    qrels: Qrels = {}
    missing: list[str] = []
    for location, line in lines:
        columns = line.split("\t")
        if len(columns) != 3:
            raise InputError(f"{location}: {len(columns)} tab-separated columns; give three, as in the header")
        query, document, score = columns
        if query not in queries:
            raise InputError(f"{location}: query {query!r} is not in queries.jsonl: add it there or drop the line")
        if document not in documents:
            missing.append(f"{location.rpartition(', ')[2]}: {document!r}")
        grade = _grade(score, location)
        if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
            pair = f"query {query!r} and document {document!r}"
            raise InputError(f"{location}: {pair} have another score above: delete one of the lines")
    if missing:  # as in BEIR's own ArguAna
        told = f"{len(missing)} judged documents are not in corpus.jsonl ({missing[0]}); they count as not found"
        warnings.warn(f"{path}: {told}", stacklevel=2)
    return qrels


def _grade(score: str, location: str) -> int:
    try:
        return int(score)
    except ValueError:
        meaning = "0 means not relevant, 1 and up relevant"
        raise InputError(f"{location}: score {shorten(score)} is not an integer; {meaning}") from None


def _existing(path: Place) -> Place:
    if not path.is_file():
        raise NotFoundError(f"{path} is missing: a BEIR folder has corpus.jsonl, queries.jsonl and qrels/<split>.tsv")
    return path


def read_rows(path: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the file and line, and the JSON object, of each line of a file that is not blank; raises InputError."""
    for location, line in read_lines(path):
        yield location, parse_row(location, line)


def parse_row(location: str, line: str) -> dict[str, Any]:
    """Returns the JSON object of a line; raises InputError if it holds none."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{location}: malformed JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise InputError(f"{location}: a number too long or values nested too deep to read; shorten it") from None
    if not isinstance(row, dict):
        raise InputError(f"{location}: not a JSON object; each line should be one")
    return row


def decode_line(location: str, raw: bytes, first: bool) -> str:
    """Returns the text of a line without its end, of the ``first`` one without a byte order mark, too.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if first else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError(f"{location}: not UTF-8: convert the file") from None


def read_lines(path: Place) -> Iterator[tuple[str, str]]:
    """Yields the lines that are not blank, without their ends, and their file and line."""
    # Read as bytes: only "\n" ends a line, and an error can name the line that is not UTF-8.
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                location = f"{path}, line {number}"
                if (line := decode_line(location, raw, number == 1)).strip():
                    yield location, line
    except UNREADABLE as error:
        remedy = "check its permissions; of a zip, pack it anew without a password"
        raise InputError(f"{path}: cannot be read ({first_line(error)}); {remedy}") from None


def _unique_id(row: dict[str, Any], location: str, seen: dict[str, str]) -> str:
    identifier = row.get("_id")
    if not isinstance(identifier, str) or not identifier.strip():
        found = f"_id is {shorten(identifier)}" if "_id" in row else "no _id"
        raise InputError(f"{location}: {found}; it should be a string that is not empty")
    read_string(row, "_id", location)
    if identifier in seen:
        raise InputError(f"{location}: _id {identifier!r} was used before ({seen[identifier]}); ids should be unique")
    seen[identifier] = location.rpartition(", ")[2]
    return identifier


def read_string(row: dict[str, Any], key: str, location: str) -> str:
    """Returns the string at ``key``, an empty one if it is missing or null; raises InputError for another value."""
    text: str = read_value(row, key, str, location)
    if has_half_character(text):  # JSON can escape it; no tokenizer takes it
        raise InputError(f"{location}: {key} holds half of a surrogate pair: write the character whole")
    return text


def read_value(row: dict[str, Any], key: str, kind: type, location: str) -> Any:  # noqa: ANN401
    """Returns the value at ``key``, an empty one if it is missing or null; raises InputError for another kind."""
    value = row.get(key)
    if value is not None and not isinstance(value, kind):
        raise InputError(f"{location}: {key} is {shorten(value)}; it should be a {_KINDS[kind]}")
    return value or kind()
