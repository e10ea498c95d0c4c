"""Requests for documents that have none, written by an instruct LLM in several styles; cleaned and restartable."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rabtriever.data import Document
from rabtriever.errors import InputError, StorageError
from rabtriever.llm.loading import LoadedLLM
from rabtriever.llm.writing import Writer
from rabtriever.persistence.folder import absolute_path
from rabtriever.persistence.object_store import is_uri
from rabtriever.persistence.storage import working_file
from rabtriever.progress import bar
from rabtriever.training.generated_text import normalize, parse_lines, why_unusable
from rabtriever.training.generation_prompts import EXAMPLE_TEXTS, LINES, conversation

STYLES = ("situation", "command", "situation", "question", "situation")
"""Of a document's requests, repeated: most are situations, which name no operation."""
BLOCK = 32  # documents whose requests are written, cleaned, filled up and saved together
FURTHER_ATTEMPTS = 1  # to fill up what cleaning left out
TOKENS_PER_LINE = 28
MAX_CHARACTERS = 2000  # of a document that the LLM reads


def generate_requests(
    documents: Iterable[Document],
    llm: LoadedLLM,
    path: str | Path,
    n: int = 5,
    *,
    seed: int = 0,
    show_progress_bar: bool = False,
) -> int:
    """Lets an LLM write requests that documents answer, and appends them to a JSONL file as they come.

    Documents that have ``n`` requests in the file are left out, so repeating an interrupted call goes on where it was,
    and a greater ``n`` adds to what is there. A document can be left with fewer, after some attempts. Lines are read by
    :func:`rabtriever.data.load_requests`: they are ``{"_id": "generated-<document>-<i>", "text": ..., "metadata":
    {"generated": true, "document": ..., "style": ...}}``.

    Args:
        documents: The corpus.
        llm: An instruct LLM, which has a chat template.
        path: The file, of which a line that an interruption cut off is dropped.
        n: Requests of a document. Of five, three are situations (problems that name no operation and share no content
            word with the document), one is a terse command and one an indirect question.
        seed: Of all draws. A document's requests depend on no other's, but for duplicates.
        show_progress_bar: Whether to show progress on stderr.

    Returns:
        How many requests were written.

    Raises:
        InputError: ``n`` below 1, an LLM without a chat template, or a line of the file that is no request.
        StorageError: the file cannot be written.
    """
    if n < 1:
        raise InputError(f"generate {n}: give at least 1 request for each document", param="generate")
    if is_uri(path):
        with working_file(str(path)) as local:
            return generate_requests(documents, llm, local, n, seed=seed, show_progress_bar=show_progress_bar)
    writer, path = Writer(llm), absolute_path(path)
    styles = Counter(islice(cycle(STYLES), n))
    written = _Written.read(path)
    _append(path, [])  # fails before anything is paid
    # Documents of similar length side by side: the answers do not depend on it, the padding does.
    missing = sorted((d for d in documents if written.total[d.id] < n), key=lambda document: len(document.content))
    count = 0
    with bar(len(missing), "writing requests", shown=show_progress_bar) as done:
        for start in range(0, len(missing), BLOCK):
            block = missing[start : start + BLOCK]
            rows = [row for style, k in styles.items() for row in _write(block, style, k, writer, written, seed)]
            _append(path, rows)
            count += len(rows)
            done.update(len(block))
    return count


@dataclass
class _Written:
    """What the file holds: its texts, and each document's requests, in all and by (document, style)."""

    texts: set[str] = field(default_factory=lambda: set(map(normalize, EXAMPLE_TEXTS)))  # which an LLM may repeat
    total: Counter[str] = field(default_factory=Counter)
    by_style: Counter[tuple[str, str]] = field(default_factory=Counter)
    last_number: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    @classmethod
    def read(cls, path: Path) -> _Written:
        """Reads a file, if there is one; a last line that was not written to its end is cut off."""
        written = cls()
        for row in _rows(path):
            metadata, number = row.get("metadata", {}), str(row.get("_id", "")).rpartition("-")[2]
            document, style = metadata.get("document", ""), metadata.get("style", "")
            written.add(row["text"], document, style, int(number) if number.isdecimal() else 0)
        return written

    def add(self, text: str, document: str, style: str, number: int) -> None:
        """Adds a request."""
        self.texts.add(normalize(text))
        self.total[document] += 1
        self.by_style[document, style] += 1
        self.last_number[document] = max(self.last_number[document], number)


def _write(
    documents: Sequence[Document], style: str, count: int, writer: Writer, written: _Written, seed: int
) -> list[dict[str, Any]]:
    """Returns up to ``count`` new requests of each document in a style, as rows of the file."""
    rows = []
    for attempt in range(-(-count // LINES) + FURTHER_ATTEMPTS):
        todo = [document for document in documents if written.by_style[document.id, style] < count]
        if not todo:
            break
        conversations = [conversation(style, document.content[:MAX_CHARACTERS]) for document in todo]
        seeds = [_seed(seed, document.id, style, attempt, written.total[document.id]) for document in todo]
        most = max(count - written.by_style[document.id, style] for document in todo)
        lines = min(LINES, most + 2)  # two to spare
        answers = writer.complete(conversations, seeds, lines, lines * TOKENS_PER_LINE)
        for document, answer in zip(todo, answers, strict=True):
            for text in parse_lines(answer):
                done = written.by_style[document.id, style] >= count
                if done or normalize(text) in written.texts or why_unusable(text, document, style):
                    continue
                number = written.last_number[document.id] + 1
                written.add(text, document.id, style, number)
                metadata = {"generated": True, "document": document.id, "style": style}
                rows.append({"_id": f"generated-{document.id}-{number}", "text": text, "metadata": metadata})
    return rows


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:7])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    content = path.read_bytes()
    *lines, last = content.split(b"\n")
    if last.strip() and _parse(last) is None:  # an interruption cut it off
        os.truncate(path, len(content) - len(last))
    elif last.strip():  # an editor left out the line's end
        path.write_bytes(content + b"\n")
        lines.append(last)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _parse(line)
            if row is None:
                raise InputError(f"{path}, line {number}: no request (a JSON object with a text); correct or remove it")
            yield row


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    fine = isinstance(row, dict) and isinstance(row.get("text"), str) and isinstance(row.get("metadata", {}), dict)
    return row if fine else None


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(lines.encode())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); give another --out") from error
