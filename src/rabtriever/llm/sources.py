"""Where an LLM's files are: behind an alias, a hub id, a folder or a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from rabtriever.errors import InputError, first_line
from rabtriever.llm.gguf import ALIAS, alias_file, convert_gguf

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
DOWNLOADED = ("*.json", "*.jinja", "*.model", "*.txt")
WEIGHTS = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin")  # the first pattern that matches counts


class ModelFiles(NamedTuple):
    """An LLM on this machine's disk.

    Attributes:
        folder: What transformers loads.
        weights: The files that identify its weights: the GGUF file itself if there is one, since the conversion's
            bytes depend on the libraries that made it.
    """

    folder: Path
    weights: list[Path]


def find_model(
    source: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> ModelFiles:
    """Finds an LLM's files, downloading or converting them if need be.

    Args:
        source: See :func:`rabtriever.llm.loading.load_llm`.
        revision: Branch, tag or commit of a hub id.
        token: Access token of the hub.
        local_files_only: Whether to use only what was downloaded from the hub before.

    Raises:
        InputError: no LLM there.
    """
    if source == ALIAS or source.endswith(".gguf"):
        gguf = alias_file() if source == ALIAS else Path(source)
        return ModelFiles(convert_gguf(gguf), [gguf])
    if is_path(source):
        folder = Path(source)
    else:
        folder = _download(source, revision=revision, token=token, local_files_only=local_files_only)
    if not (folder / "config.json").is_file():
        raise InputError(f"{source}: no model there (no config.json); give a model folder, a .gguf file or a hub id")
    weights = next((files for pattern in WEIGHTS if (files := sorted(folder.glob(pattern)))), None)
    if weights is None:
        raise InputError(f"{source}: no weights there (no {WEIGHTS[0]}); give a whole model folder")
    return ModelFiles(folder, weights)


def is_path(source: str) -> bool:
    """Returns whether a source can only be a path: a hub id is ``name`` or ``owner/name``."""
    if source == ALIAS:
        return False
    beside = "/" in source and Path(source).parent.is_dir()  # a mistyped path, not an owner of models
    return Path(source).exists() or source.startswith((".", "~", "/")) or source.count("/") > 1 or beside


def adapter_base(adapter: Path) -> str:
    """Returns the source of the LLM that a PEFT adapter was trained on.

    Raises:
        InputError: the adapter names none.
    """
    base = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{adapter}: {ADAPTER_CONFIG} names no base model; set base_model_name_or_path in it")
    return str(base)


def check_adapter(adapter: Path) -> None:
    """Raises InputError if a folder holds no PEFT adapter."""
    missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (adapter / name).is_file()]
    if missing:
        raise InputError(f"{adapter}: no PEFT adapter there (no {missing[0]})")


def _download(name: str, **hub: Any) -> Path:  # noqa: ANN401
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[*DOWNLOADED, WEIGHTS[0]], **hub))
        if not any(folder.glob(WEIGHTS[0])):
            folder = Path(snapshot_download(name, allow_patterns=[*DOWNLOADED, *WEIGHTS[1:]], **hub))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: no model could be loaded ({first_line(error)}); give a folder, a .gguf file or a hub id"
        ) from error
    return folder
