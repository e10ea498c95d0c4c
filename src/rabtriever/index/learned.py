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

from rabtriever.errors import CorruptIndexError, InputError, NotFoundError, first_line
from rabtriever.persistence.folder import EXAMPLES, atomic_folder
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.examples import Examples
from rabtriever.scoring.refusal import Refusal

CURRENT, CONFIG = "current", "learned.json"


@dataclass(frozen=True)
class Learned:
    """One version.

    Attributes:
        examples: All that the retriever remembers now.
        calibration: Its probabilities.
        refusal: When nothing fits.
        correction: Whether the predictor's correction counts still.
        report: What was measured, for JSON.
    """

    examples: Examples
    calibration: Calibration
    refusal: Refusal = field(default_factory=Refusal)
    correction: bool = True
    report: Mapping[str, Any] = field(default_factory=dict)


class LearnedVersions:
    """The versions of an index in a local folder; one in an object store has none."""

    def __init__(self, uri: str) -> None:
        self.uri, self.folder = uri, None if "://" in uri else Path(uri) / "learned"

    @property
    def current(self) -> int:
        """Number of the version in use; 0: the retriever as it was saved."""
        if self.folder is None or not (self.folder / CURRENT).is_file():
            return 0
        return int((self.folder / CURRENT).read_text(encoding="utf-8"))

    def numbers(self) -> list[int]:
        """Returns the numbers of all versions, ascending."""
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*")) if self.folder else []

    def load(self, number: int) -> Learned:
        """Loads a version; raises NotFoundError if there is none, CorruptIndexError if it is damaged."""
        folder = self._require_folder() / str(number)
        if number not in self.numbers():
            raise NotFoundError(f"{self.uri}: no learned version {number}; choose from {self.numbers() or 'none'}")
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            return Learned(
                Examples.from_arrays(load_file(folder / EXAMPLES)),
                Calibration(**config["calibration"]),
                Refusal.from_config(config["refusal"]),
                config["correction"],
                config["report"],
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            fault = f"a broken version ({first_line(error)}); go back with rabtriever tune --rollback"
            raise CorruptIndexError(f"{folder}: {fault}") from error

    def save(self, learned: Learned) -> int:
        """Writes a version, uses it, and returns its number."""
        from safetensors.numpy import save_file

        number = max(self.numbers(), default=0) + 1
        config = {
            "calibration": asdict(learned.calibration),
            "refusal": learned.refusal.to_config(),
            "correction": learned.correction,
            "report": learned.report,
            "before": self.current,
        }
        with atomic_folder(self._require_folder() / str(number)) as folder:
            save_file(learned.examples.to_arrays(), folder / EXAMPLES)
            (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        self._use(number)
        return number

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
