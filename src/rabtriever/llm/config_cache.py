"""An LLM's configuration and tokenizer without transformers' model code, whose import takes more than a second."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from rabtriever.caching import cache_dir
from rabtriever.persistence.folder import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

GENERIC_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")  # two names of one class


class CachedConfig(SimpleNamespace):
    """The values of a text LLM's configuration, defaults included."""

    def get_text_config(self) -> CachedConfig:
        """Returns itself."""
        return self


def load_config(folder: Path) -> PreTrainedConfig:
    """Loads a configuration, from ``<cache folder>/configs`` if transformers has read the same file before."""
    content = (folder / "config.json").read_bytes() + version("transformers").encode()
    path = cache_dir() / "configs" / f"{hashlib.sha256(content).hexdigest()}.json"
    with suppress(OSError, ValueError, TypeError):
        return cast("PreTrainedConfig", CachedConfig(**json.loads(path.read_text())))
    from transformers import AutoConfig

    config: PreTrainedConfig = AutoConfig.from_pretrained(folder)
    if config.get_text_config() is config and not config.attribute_map:  # else more than values must be cached
        with suppress(OSError, TypeError):  # not writable, or a value that JSON does not have
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, config.to_dict())
    return config


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Loads a tokenizer; one that needs no code of its own without looking for the LLM's."""
    settings = folder / "tokenizer_config.json"
    declared = json.loads(settings.read_text()).get("tokenizer_class") if settings.is_file() else None
    if declared in GENERIC_TOKENIZERS and (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer
