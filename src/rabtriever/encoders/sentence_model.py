"""What a sentence-transformers model's files say, without its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rabtriever.errors import InputError
from rabtriever.llm.hashing import file_hash
from rabtriever.llm.sources import NOT_SETTINGS


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
        weights_identity: What the weights were computed from, instead of their files' hashes.
    """

    source: str
    folder: Path
    modules: tuple[Module, ...]
    config: dict[str, Any]
    max_length: int | None
    similarity: str
    prompts: dict[str, str] = field(hash=False)
    truncate_dim: int | None
    weights_identity: str | None = None

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
        return [file for folder in folders if folder.is_dir() for file in weights_in(folder)]

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 of the weights and of the settings that are no choice of the user's."""
        if self.weights_identity:
            return _digest(self.weights_identity)
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
        width = 0
        for module in self.modules:
            settings = module.settings
            if module.kind == "Pooling":
                states = settings.get("embedding_dimension") or settings["word_embedding_dimension"]
                width = int(states) * len(pooling_modes(module))
            elif module.kind == "Dense":
                width = int(settings["out_features"])
        return width


def pooling_modes(module: Module) -> list[str]:
    """Returns the names of a pooling's modes, as ``mean``, in the order in which they are joined."""
    modes = module.settings.get("pooling_mode")
    if modes is None:  # as releases before 5.4 wrote it
        legacy = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
        on = [mode for mode in legacy if module.settings.get(f"pooling_mode_{mode}")]
        return [m if m == "mean_sqrt_len_tokens" else m.removesuffix("_tokens").removesuffix("_token") for m in on]
    return [modes] if isinstance(modes, str) else list(modes)


def weights_in(folder: Path) -> list[Path]:
    """Returns the files of weights in a folder, of the better format; there may be none."""
    for pattern in ("*model*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _digest(values: Any) -> str:  # noqa: ANN401
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
