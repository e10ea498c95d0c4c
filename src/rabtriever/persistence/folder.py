"""A model on disk: rabtriever.json, the adapter, and a retriever's predictor. safetensors and JSON, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from rabtriever.caching import remove_stale
from rabtriever.errors import ConflictError, InputError, NotFoundError, StorageError, first_line
from rabtriever.persistence import storage
from rabtriever.persistence.model_card import CARD, model_card
from rabtriever.persistence.object_store import FILE, is_remote, is_uri

CONFIG = "rabtriever.json"
ADAPTER = "adapter"
PREDICTOR = "predictor.safetensors"
ENCODER = "encoder"
EXAMPLES = "examples.safetensors"
MODEL_KEYS = ("llm", "cross_encoder", "name")  # whose values name a model: an alias, a hub id or a path
FORMAT = 3
UNFINISHED = ".unfinished-"  # how the name of a folder begins that is being filled inside its place
LAST = ("modules.json", CONFIG)  # without which a folder in a store is no model yet
STALE_AFTER_SECONDS = 24 * 3600  # age at which one that nobody finished is removed


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
    if storage.is_for_upload(folder):
        _map_paths(config, lambda path: _warn_of_path(path, name))  # it stays: no other leads from a store to here
    else:
        place = folder.parent if folder.name.startswith(UNFINISHED) else folder  # where it will be
        config = _map_paths(config, lambda path: _relative(path, place))
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
    examples: dict[str, Any] | None = None,
) -> None:
    """Writes a retriever's folder completely or not at all.

    Args:
        path: The new folder, or its URI.
        config: For :func:`write_config`.
        predictor: The predictor's weights, name -> torch tensor; none of an untrained retriever.
        adapter: The LLM's adapter, to copy.
        encoder: The folder of an encoder that belongs to the model, to copy.
        log: Lines of its training.
        examples: NumPy arrays of the queries that it remembers.

    Raises:
        ConflictError: ``path`` exists.
    """
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file

    with atomic_folder(path) as folder:
        if adapter is not None:
            shutil.copytree(adapter, folder / ADAPTER, ignore=shutil.ignore_patterns(CARD))  # peft's names paths
        if encoder is not None:
            shutil.copytree(encoder, folder / ENCODER)
            config = {**config, "encoder": {**config["encoder"], "name": f"./{ENCODER}"}}
        if predictor:
            save_file(predictor, folder / PREDICTOR)
        if examples:
            save_arrays(examples, folder / EXAMPLES)
        write_config(folder, config, Path(normalized_uri(path)).name)
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
    """Returns what a model's name in a folder means: a path beside a model of a store is beside it there."""
    if not name.startswith("."):
        return name
    path, source = absolute_path(folder / name), storage.origin(folder)
    if source is None or path.is_relative_to(folder):
        return str(path)
    scheme, _, place = source.partition("://")
    return f"{scheme}://{os.path.normpath(f'{place}/{name}')}"


def _warn_of_path(path: str, name: str) -> str:
    if os.path.isabs(path):
        warnings.warn(f"{name}: stands on {path}, which other machines need in the same place", stacklevel=4)
    return path


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


def absolute_path(path: str | Path) -> Path:
    """Returns what a path means here and now, wherever the process goes later: ``~`` expanded, links followed.

    ``file://`` is left out. A file keeps its name, since the hub's cache links to files that are named by hashes.
    """
    if str(path).startswith(FILE):
        path = unquote(str(path).removeprefix(FILE))
    path = Path(path).expanduser()
    return path.parent.resolve() / path.name if path.is_file() else path.resolve()


def normalized_uri(path: str | Path) -> str:
    """Returns a local path, ``~`` and ``file://`` included, as an absolute path; another URI as it is."""
    return str(path) if is_remote(path) else str(absolute_path(path))


def local_path(path: str | Path) -> Path:
    """Returns where what a path names can be read: an absolute path, of a URI that of a copy on this machine.

    Raises:
        NotFoundError, StorageError: as of :func:`rabtriever.persistence.storage.fetch`.
    """
    return storage.fetch(str(path)) if is_uri(path) else absolute_path(path)


def require_absent(path: str | Path) -> None:
    """Raises ConflictError if something other than an empty folder is at ``path``; StorageError if none can be made."""
    if is_uri(path):
        return storage.require_absent(str(path))
    path = absolute_path(path)
    if path.exists() and not (path.is_dir() and all(entry.name.startswith(UNFINISHED) for entry in path.iterdir())):
        raise ConflictError(f"{path}: exists already; give another folder or remove it")
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        reason = "cannot be written" if nearest.is_dir() else "is a file"
        raise StorageError(
            f"{path}: cannot be made ({nearest} {reason}); give another folder or change its permissions"
        )
    return None


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes ``path`` when all went well; errors as of :func:`require_absent`.

    It is made beside its place and renamed. An empty folder that exists stays, and the temporary one is made in it: it
    may be where another disk is mounted, or the current folder. That of a URI is uploaded.
    """
    if is_uri(path):
        with storage.uploaded_folder(str(path), LAST) as temporary:
            yield temporary
        return
    require_absent(path)
    path = absolute_path(path)
    exists = path.exists()
    parent, prefix = (path, UNFINISHED) if exists else (path.parent, f".{path.name}.")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    except OSError as error:
        raise _cannot_be_made(path, error) from error
    try:
        yield temporary
        try:
            for made in [temporary, *temporary.rglob("*")]:
                made.chmod(0o755 if made.is_dir() else 0o644)  # temporary files are private to their maker
            if exists:
                _move_contents(temporary, path)
            else:
                os.replace(temporary, path)
        except OSError as error:
            raise _cannot_be_made(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_contents(folder: Path, place: Path) -> None:
    """Moves what a folder holds into the empty one that it lies in: all, or nothing if one cannot be moved."""
    remove_stale((entry for entry in place.glob(f"{UNFINISHED}*") if entry != folder), STALE_AFTER_SECONDS)
    require_absent(place)  # another process may have been faster
    moved: list[Path] = []
    try:
        for entry in sorted(folder.iterdir()):
            moved.append(entry.rename(place / entry.name))
    except OSError:
        for entry in moved:
            entry.rename(folder / entry.name)
        raise


def _cannot_be_made(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be made ({error.strerror}); give another folder, or make room")
