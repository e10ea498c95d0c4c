"""A model on disk: rabtriever.json, the adapter, and a retriever's predictor. safetensors and JSON, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rabtriever.errors import ConflictError, InputError

CONFIG = "rabtriever.json"
ADAPTER = "adapter"
FORMAT = 2


def read_config(folder: str | Path) -> dict[str, Any]:
    """Returns a model's configuration.

    Raises:
        InputError: no model of ours there, or one of a newer format.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError(
            f"{folder}: no model there (no {CONFIG}); train one with `rabtriever train` and `rabtriever distill`"
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = config["format"]
        if version == FORMAT:
            config["llm"], config["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a model configuration ({error}); train the model again") from error
    if version != FORMAT:
        raise InputError(f"{path}: format {version}, this release reads {FORMAT}; update rabtriever or train again")
    return config


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes a model's configuration."""
    text = json.dumps({"format": FORMAT, **config}, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """Writes a JSON file completely or not at all."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(value, indent=2), encoding="utf-8")
    os.replace(temporary, path)


def require_absent(path: str | Path) -> None:
    """Raises if something other than an empty folder exists at ``path``.

    Raises:
        ConflictError: it does.
    """
    path = Path(path).expanduser()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConflictError(f"{path}: exists already; give another --out or remove it")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to ``path`` when all went well.

    Raises:
        ConflictError: ``path`` exists.
    """
    require_absent(path)
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
