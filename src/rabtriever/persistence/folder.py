"""A model on disk: rabtriever.json, the adapter, and a retriever's predictor. safetensors and JSON, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from rabtriever.errors import ConflictError, InputError, NotFoundError, first_line
from rabtriever.persistence.model_card import CARD, model_card

CONFIG = "rabtriever.json"
ADAPTER = "adapter"
PREDICTOR = "predictor.safetensors"
ENCODER = "encoder"
MODEL_KEYS = ("llm", "cross_encoder", "name")  # whose values name a model: an alias, a hub id or a path
FORMAT = 3


def read_config(folder: str | Path) -> dict[str, Any]:
    """Returns a model's configuration; models in it are aliases, hub ids or absolute paths.

    Raises:
        NotFoundError: no model of ours there.
        InputError: a broken one, or one of a newer format.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise NotFoundError(
            f"{folder}: no model there (no {CONFIG}); train one with `rabtriever train` and `rabtriever distill`"
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = config["format"]
        if version == FORMAT:
            if "encoder" in config:
                config["encoder"]["kind"], config["fusion"], config["calibration"]
            else:
                config["llm"], config["prompt"]
            config = _map_paths(config, lambda name: _absolute(name, path.parent))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a model configuration ({error}); train the model again") from error
    if version != FORMAT:
        raise InputError(f"{path}: format {version}, this release reads {FORMAT}; update rabtriever or train again")
    if config.get("adapter") and not (path.parent / ADAPTER).is_dir():
        raise InputError(f"{folder}: its folder {ADAPTER} is missing; copy or download the whole model")
    return config


def write_config(folder: Path, config: dict[str, Any], name: str) -> None:
    """Writes a model's configuration and its card, without absolute paths: they become relative to the model's.

    Args:
        folder: The model's, with its adapter in it if it has one.
        config: JSON values, as :func:`read_config` returns them.
        name: What the card's snippet loads the model by.
    """
    config = _map_paths(config, lambda path: _relative(path, folder))
    adapter = folder / ADAPTER / "adapter_config.json"
    if adapter.is_file():
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        if os.path.isabs(settings.get("base_model_name_or_path") or ""):
            write_json(adapter, {**settings, "base_model_name_or_path": None})
        config = {**config, "adapter": True}
    config = {"format": FORMAT, **config}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / CARD).write_text(model_card(config, name), encoding="utf-8")


def save_model(
    path: str | Path,
    config: dict[str, Any],
    predictor: dict[str, Any],
    adapter: Path | None = None,
    encoder: Path | None = None,
    log: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes a retriever's folder completely or not at all.

    Args:
        path: The new folder.
        config: For :func:`write_config`.
        predictor: The predictor's weights, name -> torch tensor; none of an untrained retriever.
        adapter: The LLM's adapter, to copy.
        encoder: The folder of an encoder that belongs to the model, to copy.
        log: Lines of its training.

    Raises:
        ConflictError: ``path`` exists.
    """
    from safetensors.torch import save_file

    with atomic_folder(path) as folder:
        if adapter is not None:
            shutil.copytree(adapter, folder / ADAPTER, ignore=shutil.ignore_patterns(CARD))  # peft's names paths
        if encoder is not None:
            shutil.copytree(encoder, folder / ENCODER)
            config = {**config, "encoder": {**config["encoder"], "name": f"./{ENCODER}"}}
        if predictor:
            save_file(predictor, folder / PREDICTOR)
        write_config(folder, config, Path(path).name)
        if log:
            lines = "".join(json.dumps(line) + "\n" for line in log)
            (folder / "distill_log.jsonl").write_text(lines, encoding="utf-8")


def load_weights(folder: Path) -> dict[str, Any]:
    """Returns the weights of a retriever's predictor, name -> torch tensor; an InputError names a faulty file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / PREDICTOR).is_file():
        raise InputError(f"{folder}: {PREDICTOR} is missing; copy the whole folder or distill again")
    try:
        return load_file(folder / PREDICTOR)
    except SafetensorError as error:
        raise InputError(f"{folder}: a broken retriever ({first_line(error)}); distill it again") from error


def _map_paths(config: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Returns a configuration with the names of its models changed."""
    changed = {key: change(config[key]) for key in MODEL_KEYS if config.get(key) is not None}
    encoder = {"encoder": _map_paths(config["encoder"], change)} if isinstance(config.get("encoder"), dict) else {}
    return {**config, **changed, **encoder}


def _absolute(name: str, folder: Path) -> str:
    return str(folder.resolve().joinpath(name).resolve()) if name.startswith(".") else name


def _relative(name: str, folder: Path) -> str:
    if not os.path.isabs(name):
        return name
    relative = Path(os.path.relpath(name, folder.resolve())).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """Writes a JSON file completely or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    temporary.write_text(json.dumps(value, indent=2), encoding="utf-8")
    os.replace(temporary, path)


def require_absent(path: str | Path) -> None:
    """Raises ConflictError if something other than an empty folder exists at ``path``."""
    path = Path(path).expanduser()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConflictError(f"{path}: exists already; give another --out or remove it")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to ``path`` when all went well; as :func:`require_absent`."""
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
