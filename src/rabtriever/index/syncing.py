"""What an index must change to hold some documents, and what of that it need not encode again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import ConflictError
from rabtriever.index.snapshot import Snapshot

DOCUMENTS_PER_READ = 8192


@dataclass(frozen=True)
class Changes:
    """How many documents a sync added, changed, removed and left as they were.

    Attributes:
        added: Their ids were not in the index.
        changed: Their title, text or metadata differed.
        removed: They were not given, and were to be removed.
        unchanged: They were given as the index holds them.
        missing: They were not given, and stay in the index.
    """

    added: int
    changed: int
    removed: int
    unchanged: int
    missing: int

    @property
    def any(self) -> bool:
        """Whether the index is another than before."""
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True)
class Plan:
    """What a sync has to do.

    Attributes:
        added: Documents of new ids.
        changed: Documents whose title, text or metadata differ from those of their ids in the index.
        unchanged: Number of the others that were given.
        missing: Ids in the index of which no document was given.
    """

    added: list[Document]
    changed: list[Document]
    unchanged: int
    missing: list[str]

    @classmethod
    def of(cls, documents: Iterable[Document], snapshot: Snapshot) -> Plan:
        """Compares documents with an index's; memory holds digests of all, and what is new or changed.

        Raises:
            ConflictError: an id comes twice.
        """
        stored = dict(_stored(snapshot))
        added: list[Document] = []
        changed: list[Document] = []
        seen: set[str] = set()
        for document in documents:
            if document.id in seen:
                raise ConflictError(f"sync: document id {document.id!r} comes twice; ids must differ", param="id")
            seen.add(document.id)
            if document.id not in stored:
                added.append(document)
            elif stored[document.id] != document_digest(document):
                changed.append(document)
        unchanged = len(seen) - len(added) - len(changed)
        return cls(added, changed, unchanged, [identifier for identifier in stored if identifier not in seen])

    def changes(self, delete: bool) -> Changes:
        """Returns what comes of it if missing documents are removed, or not."""
        gone = len(self.missing)
        return Changes(len(self.added), len(self.changed), gone if delete else 0, self.unchanged, 0 if delete else gone)


def _stored(snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
    for start in range(0, len(snapshot), DOCUMENTS_PER_READ):
        for document in snapshot.documents(
            snapshot.rows(np.arange(start, min(start + DOCUMENTS_PER_READ, len(snapshot))))
        ):
            yield document.id, document_digest(document)


def document_digest(document: Document) -> bytes:
    """Returns 16 bytes that differ if title, text or metadata do."""
    values = [document.title, document.text, dict(document.metadata)]
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).digest()
