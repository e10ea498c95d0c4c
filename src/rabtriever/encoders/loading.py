"""Which encoder a name means: a sentence-transformers model, or an LLM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabtriever.encoders.base import Encoder
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import InputError
from rabtriever.persistence.hub import is_sentence_model

if TYPE_CHECKING:
    from rabtriever.llm.loading import LoadOptions


def load_encoder(name: str | Path, *, revision: str | None = None, **options: Any) -> Encoder:  # noqa: ANN401
    """Loads an encoder.

    Args:
        name: ``minilm``, ``mpnet``, a hub id or a folder of a sentence-transformers model; or ``smollm2``, a hub id, a
            folder or a GGUF file of an LLM, whose mean states are the embeddings.
        revision: Branch, tag or commit of a hub id; the main branch if None.
        **options: ``device``, ``dtype``, ``backend``, ``token``, ``local_files_only``; of a sentence-transformers model
            ``truncate_dim``, ``query_prompt`` and ``document_prompt``, too.

    Raises:
        InputError: nothing that can be loaded is there.
    """
    hub = {key: options[key] for key in ("token", "local_files_only") if key in options}
    if is_sentence_model(name, revision=revision, **hub):
        return SentenceEncoder.from_pretrained(str(name), revision=revision, **options)
    from rabtriever.encoders.llm import LLMEncoder
    from rabtriever.llm.loading import load_llm
    from rabtriever.llm.prompt import PromptTemplate
    from rabtriever.llm.prompted import PromptedLLM

    return LLMEncoder(PromptedLLM(load_llm(str(name), revision=revision, **options), PromptTemplate()))


def restore_encoder(config: Mapping[str, Any], options: LoadOptions) -> Encoder:
    """Loads the encoder that ``Encoder.to_config`` describes."""
    values = {name: value for name, value in config.items() if name != "kind"}
    if config["kind"] == "sentence":
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        return SentenceEncoder.from_pretrained(**values, **given)
    if config["kind"] != "llm":
        raise InputError(f"encoder {config['kind']!r}: of no kind that this release loads; update rabtriever")
    from rabtriever.encoders.llm import LLMEncoder
    from rabtriever.llm.loading import load_llm
    from rabtriever.llm.prompt import PromptTemplate
    from rabtriever.llm.prompted import PromptedLLM

    llm = load_llm(config["llm"], revision=config.get("llm_revision"), **options)
    return LLMEncoder(PromptedLLM(llm, PromptTemplate.from_dict(config["prompt"])), config["pooling"])
