"""What a training reports to, step by step or round by round."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rabtriever.persistence.folder import absolute_path


class TrainingCallback(Protocol):
    """Receives the metrics of a training while it runs."""

    def on_log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Receives metrics.

        Args:
            step: Steps (of the reranker's training) or rounds (of a distillation) so far; 0 before the first.
            metrics: Name -> number, JSON-ready.
        """


class JsonlLogger:
    """A callback that writes metrics as lines of JSON to stderr and, if there is a path, to the end of a file.

    Args:
        path: The file; its folder must exist.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else absolute_path(path)

    def on_log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes ``{"step": step, ...}``."""
        line = json.dumps({"step": step, **metrics})
        print(line, file=sys.stderr, flush=True)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
