"""Answers that were paid for, on disk as soon as they arrive."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rabtriever.errors import StorageError


class CachedAnswer(NamedTuple):
    """The answer about a pair: its log-odds, and the probability of both choices together where it is known."""

    log_odds: float
    mass: float | None = None


class AnswerCache:
    """Answers by pair, in a file that only grows: a JSON object a line, ``{"key", "log_odds", "mass"}``.

    A line is written by one call, so a process that is killed leaves whole lines and perhaps a part of one, which is
    skipped. Several processes may share a file; each sees what the others wrote before it began.

    Args:
        path: The file; made, with its folder, by :meth:`prepare`.

    Raises:
        StorageError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, CachedAnswer] = {}
        try:
            for line in path.read_bytes().splitlines() if path.exists() else []:
                self._read(line)
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be read ({error.strerror}); delete it or mend its permissions"
            ) from None

    def __len__(self) -> int:
        """Returns the number of answers."""
        return len(self._answers)

    def get(self, key: str) -> CachedAnswer | None:
        """Returns the answer about a pair; None if there is none."""
        return self._answers.get(key)

    def prepare(self) -> None:
        """Makes the file, so that nothing is paid that cannot be kept; raises StorageError."""
        self._append(b"")

    def add(self, answers: Iterable[tuple[str, CachedAnswer]]) -> None:
        """Stores answers by key; raises StorageError if the disk is full."""
        answers = list(answers)
        # A newline first: what another process left unfinished then spoils no line but its own.
        self._append("".join(f"\n{json.dumps({'key': key, **answer._asdict()})}" for key, answer in answers).encode())
        self._answers.update(answers)

    def _append(self, lines: bytes) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, lines)
            finally:
                os.close(file)
        except OSError as error:
            remedy = "make room or set RABTRIEVER_CACHE"
            raise StorageError(f"{self.path}: answers cannot be kept ({error.strerror}); {remedy}") from None

    def _read(self, line: bytes) -> None:
        with suppress(ValueError, KeyError, TypeError):  # a torn line
            item = json.loads(line)
            key, log_odds, mass = item["key"], item["log_odds"], item["mass"]
            if isinstance(key, str) and math.isfinite(log_odds) and (mass is None or math.isfinite(mass)):
                self._answers[key] = CachedAnswer(log_odds, mass)


def answer_key(query: str, document: str) -> str:
    """Returns the key of a pair."""
    return hashlib.sha256(json.dumps([query, document]).encode()).hexdigest()[:32]
