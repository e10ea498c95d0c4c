"""Requests that say which documents of a catalogue are right, by id or name, or that none is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rabtriever.data import Document
from rabtriever.data.beir import read_rows, read_string
from rabtriever.errors import InputError, NotFoundError, shorten
from rabtriever.persistence.folder import local_path

KEYS = ("relevant", "tools", "tool")


@dataclass(frozen=True)
class LabelledRequest:
    """A request and the ids of the documents that are right for it; none if nothing fits it."""

    text: str
    relevant: tuple[str, ...]


def read_labelled_requests(path: str | Path, documents: Iterable[Document]) -> list[LabelledRequest]:
    """Reads requests, in file order.

    Args:
        path: A JSONL file. A line has ``text`` and ``relevant``, ``tools`` or ``tool``: ids or names of documents, a
            list or one of them; an empty list or null if nothing fits. A name is a document's title or, of a tool, its
            name without the server's. Further keys are ignored.
        documents: The catalogue.

    Raises:
        NotFoundError: there is no such file.
        InputError: a line is malformed, names a document that the catalogue lacks or a name of several, or there is no
            line; the message names file and line.
    """
    path = local_path(path)
    if not path.is_file():
        raise NotFoundError(f"{path} is missing: give a JSONL file of requests, each line with a text and tools")
    names = _Names(documents)
    requests = [_request(location, row, names) for location, row in read_rows(path)]
    if not any(request.relevant for request in requests):
        raise InputError(f"{path}: no request that something fits; give at least one with a tool")
    return requests


def _request(location: str, row: dict[str, Any], names: _Names) -> LabelledRequest:
    text = read_string(row, "text", location)
    if not text.strip():
        raise InputError(f"{location}: the text of the request is missing or blank; fill it in")
    key = next((key for key in KEYS if key in row), None)
    if key is None:
        raise InputError(f"{location}: no {', '.join(KEYS[:-1])} or {KEYS[-1]}; name the right ones, [] if none fits")
    value = [] if row[key] is None else row[key]
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(f"{location}: {key} is {shorten(row[key])}; give an id or a list of ids")
    return LabelledRequest(text, tuple(dict.fromkeys(names.find(name, location) for name in given)))


class _Names:
    """What documents are called: ids, and the ids of each name."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._ids: dict[str, set[str]] = {}
        self._documents = set()
        for document in documents:
            self._documents.add(document.id)
            for name in (document.title, document.metadata.get("name")):
                if isinstance(name, str) and name:
                    self._ids.setdefault(name, set()).add(document.id)

    def find(self, name: str, location: str) -> str:
        """Returns the id of a document by its id or name."""
        found = [name] if name in self._documents else sorted(self._ids.get(name, ()))
        if not found:
            close = get_close_matches(name, [*self._documents, *self._ids], n=1, cutoff=0)[0]
            nearest = close if close in self._documents else min(self._ids[close])
            fault = f"the catalogue has no {name!r}; the nearest is {nearest!r}"
            raise InputError(f"{location}: {fault}, or leave the request out")
        if len(found) > 1:
            raise InputError(f"{location}: {name!r} is the name of {found[0]!r} and {found[1]!r}; give the id")
        return found[0]
