"""An LLM with a prompt: what the encoder and the generative reranker both stand on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torch import Tensor
from typing_extensions import Unpack

from rabtriever.llm.backbone import MAX_KV_CACHE_BYTES, Backbone
from rabtriever.llm.engines import create_engine
from rabtriever.llm.loading import LoadedLLM, LoadOptions, choice_direction, load_llm
from rabtriever.llm.prompt import Prompt, PromptTemplate
from rabtriever.persistence.folder import ADAPTER, read_config


class PromptedLLM:
    """A loaded LLM and the prompt it is used with.

    Args:
        loaded: The LLM, its adapter merged.
        template: The prompt; part of the model, never a call option.
        kv_cache_bytes: Memory for the keys and values of documents that serve further calls.

    Attributes:
        prompt: The template with the LLM's tokenizer: texts to token ids.
        backbone: Token ids to states.
        choice_direction: float32 (H,), w = w_yes - w_no, on the CPU.
        fingerprint: Identifies weights, adapter and prompt.

    Raises:
        InputError: a prompt that is longer than the LLM reads, or a choice that is not one token.
    """

    def __init__(self, loaded: LoadedLLM, template: PromptTemplate, kv_cache_bytes: int = MAX_KV_CACHE_BYTES) -> None:
        self.loaded, self.template = loaded, template
        self.prompt = Prompt(template, loaded.tokenizer)
        self.backbone = Backbone(
            loaded.model,
            lambda: create_engine(loaded.model, loaded.backend, self.prompt.shared_prefixes, loaded.weights_hash),
            kv_cache_bytes,
        )
        self.backbone.check_length(self.prompt.max_tokens)
        self.choice_direction: Tensor = choice_direction(loaded.model, self.prompt.choice_ids).cpu()
        described = json.dumps([loaded.weights_hash, template.to_dict()], sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    @classmethod
    def from_folder(
        cls, folder: Path, *, kv_cache_bytes: int = MAX_KV_CACHE_BYTES, **options: Unpack[LoadOptions]
    ) -> PromptedLLM:
        """Loads the LLM, adapter and prompt that a folder of `rabtriever train` or `rabtriever distill` names.

        Raises:
            InputError: no model there.
        """
        config, adapter = read_config(folder), folder / ADAPTER
        loaded = load_llm(config["llm"], adapter if adapter.is_dir() else None, **options)
        return cls(loaded, PromptTemplate.from_dict(config["prompt"]), kv_cache_bytes)

    @property
    def hidden_size(self) -> int:
        """H, width of the states."""
        return self.backbone.hidden_size
