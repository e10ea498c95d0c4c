"""An LLM with a prompt: what the encoder and the generative reranker both stand on."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from rabtriever.llm.backbone import MAX_KV_CACHE_BYTES, Backbone
from rabtriever.llm.engines import create_engine
from rabtriever.llm.loading import LoadedLLM, LoadOptions, load_llm
from rabtriever.llm.prompt import Prompt, PromptTemplate
from rabtriever.persistence.folder import ADAPTER, read_config

ENGINE_VERSION = 1  # to be raised with every change to an engine or a prompt that changes states


class PromptedLLM:
    """A loaded LLM and the prompt it is used with. The weights are loaded when a text is first encoded.

    ``prompt`` turns texts into token ids, ``backbone`` these into states of ``hidden_size`` numbers; ``fingerprint``
    identifies weights, adapter and prompt. Prompts longer than the LLM reads, or a choice that is not one token, are an
    InputError.
    """

    def __init__(self, loaded: LoadedLLM, template: PromptTemplate, kv_cache_bytes: int = MAX_KV_CACHE_BYTES) -> None:
        self.loaded, self.template, self.prompt = loaded, template, Prompt(template, loaded.tokenizer)
        prefixes = self.prompt.shared_prefixes
        self.backbone = Backbone(loaded.config, lambda: create_engine(loaded, prefixes), kv_cache_bytes)
        self.backbone.check_length(self.prompt.max_tokens)
        self.hidden_size = self.backbone.hidden_size
        described = json.dumps([loaded.weights_hash, template.to_dict()], sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    @classmethod
    def from_folder(
        cls, folder: Path, *, kv_cache_bytes: int = MAX_KV_CACHE_BYTES, **options: Unpack[LoadOptions]
    ) -> PromptedLLM:
        """Loads the LLM, adapter and prompt of a folder that `rabtriever train` or `rabtriever distill` wrote."""
        config = read_config(folder)
        adapter = folder / ADAPTER if (folder / ADAPTER).is_dir() else None
        loaded = load_llm(config["llm"], adapter, revision=config.get("llm_revision"), **options)
        return cls(loaded, PromptTemplate.from_dict(config["prompt"]), kv_cache_bytes)

    @property
    def numerics(self) -> str:
        """Identifies what computes the states: backend, data type, kind of device, version of the engines."""
        loaded = self.loaded
        return f"{loaded.backend}/{loaded.dtype}/{loaded.device.partition(':')[0]}/{ENGINE_VERSION}"

    def to_config(self) -> dict[str, Any]:
        """Returns the JSON values of ``rabtriever.json`` that name the LLM and its prompt."""
        revision = {"llm_revision": self.loaded.revision} if self.loaded.revision else {}
        return {"llm": self.loaded.source, **revision, "prompt": self.template.to_dict()}

    @cached_property
    def choice_direction(self) -> Tensor:
        """W = w_yes - w_no, the difference of lm_head's rows of the two choices: float32 (H,), on the CPU."""
        return self.loaded.choice_direction(self.prompt.choice_ids)
