"""A model on disk: rabtriever.json, the adapter, and a retriever's predictor. safetensors and JSON, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConflictError(f"{path}: exists already; give another --out or remove it")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to ``path`` when all went well.

    Raises:
        ConflictError: ``path`` exists.
    """
    check_new_folder(path)
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for made in [temporary, *temporary.rglob("*")]:
            made.chmod(0o755 if made.is_dir() else 0o644)  # temporary files are private to their maker
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
