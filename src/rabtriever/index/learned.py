"""What an index's retriever learnt in use, in numbered versions beside its documents; the documents know nothing of it.

``learned/<number>/`` holds a version, ``learned/current`` the number of the one in use; 0, or no such file: none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock

from rabtriever.errors import BusyError, CorruptIndexError, InputError, NotFoundError, first_line
from rabtriever.persistence.folder import EXAMPLES, atomic_folder
from rabtriever.persistence.object_store import is_remote
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.examples import Examples
from rabtriever.scoring.refusal import Refusal

CURRENT, CONFIG = "current", "learned.json"


@dataclass(frozen=True)
class Learned:
    """One version.

    Attributes:
        examples: All that the retriever remembers now; None: nothing.
        calibration: Its probabilities.
        refusal: When nothing fits.
        correction: Whether the correction counts still, the predictor's and the query adapter's.
        report: What was measured, for JSON.
    """

    examples: Examples | None
    calibration: Calibration
    refusal: Refusal = field(default_factory=Refusal)
    correction: bool = True
    report: Mapping[str, Any] = field(default_factory=dict)


class LearnedVersions:
    """The versions of an index in a local folder; one in an object store has none."""

    def __init__(self, uri: str) -> None:
        self.uri, self.folder = uri, None if is_remote(uri) else Path(uri) / "learned"

    @property
    def current(self) -> int:
        """Number of the version in use; 0: the retriever as it was saved."""
        if self.folder is None or not (self.folder / CURRENT).is_file():
            return 0
        text = (self.folder / CURRENT).read_text(encoding="utf-8").strip()
        if not text.isdecimal():
            raise CorruptIndexError(f"{self.folder / CURRENT}: not a version's number; write 0 or one of its folders'")
        return int(text)

    @property
    def until(self) -> float | None:
        """Time of the newest event that the version in use has learnt; None if it has none."""
        until: float | None = self.load(self.current).report.get("until") if self.current else None
        return until

    def numbers(self) -> list[int]:
        """Returns the numbers of all versions, ascending."""
        names = [path.name for path in self.folder.glob("[0-9]*")] if self.folder else []
        return sorted(int(name) for name in names if name.isdecimal())

    def load(self, number: int) -> Learned:
        """Loads a version; raises NotFoundError if there is none, CorruptIndexError if it is damaged."""
        folder = self._require_folder() / str(number)
        if number not in self.numbers():
            raise NotFoundError(f"{self.uri}: no learned version {number}; choose from {self.numbers() or 'none'}")
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            examples = Examples.from_arrays(load_file(folder / EXAMPLES)) if config["examples"] else None
            return Learned(
                examples,
                Calibration(**config["calibration"]),
                Refusal.from_config(config["refusal"]),
                config["correction"],
                config["report"],
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            fault = f"a broken version ({first_line(error)}); go back with rabtriever tune --rollback"
            raise CorruptIndexError(f"{folder}: {fault}") from error

    def save(self, learned: Learned, before: int) -> int:
        """Writes a version, uses it, and returns its number.

        Args:
            learned: The version.
            before: The version that it was made from.

        Raises:
            BusyError: that is not in use any more.
        """
        folder = self._require_folder()
        folder.mkdir(exist_ok=True)
        with FileLock(folder / ".lock"):
            if self.current != before:
                raise BusyError(f"{self.uri}: another process learnt or went back meanwhile; run it again")
            number = max(self.numbers(), default=0) + 1
            self._write(learned, number)
            self._use(number)
        return number

    def _write(self, learned: Learned, number: int) -> None:
        from safetensors.numpy import save_file

        config = {
            "examples": len(learned.examples or ()),
            "calibration": asdict(learned.calibration),
            "refusal": learned.refusal.to_config(),
            "correction": learned.correction,
            "report": learned.report,
            "before": self.current,
        }
        with atomic_folder(self._require_folder() / str(number)) as folder:
            if learned.examples is not None:
                save_file(learned.examples.to_arrays(), folder / EXAMPLES)
            (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def rollback(self) -> int:
        """Goes back to the version before the one in use, and returns its number.

        Raises:
            InputError: none is in use.
        """
        if not self.current:
            raise InputError(f"{self.uri}: nothing to go back to; its retriever is as it was saved", param="rollback")
        config, before = self._require_folder() / str(self.current) / CONFIG, 0
        with suppress(OSError, ValueError, KeyError):  # from a broken version back to the retriever as it was saved
            before = int(json.loads(config.read_text(encoding="utf-8"))["before"])
        self._use(before)
        return before

    def _use(self, number: int) -> None:
        path = self._require_folder() / CURRENT
        temporary = path.with_name(f".{CURRENT}.{uuid4().hex}")
        temporary.write_text(f"{number}\n", encoding="utf-8")
        os.replace(temporary, path)

    def _require_folder(self) -> Path:
        if self.folder is None:
            raise InputError(
                f"{self.uri}: an index in an object store cannot learn; copy it to a folder", param="index"
            )
        return self.folder
