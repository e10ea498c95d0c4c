"""Which reranker a name stands for, and the reranker of a saved model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Unpack

from rabtriever.errors import InputError
from rabtriever.llm.loading import LoadOptions, hub_options
from rabtriever.llm.presets import PresetOptions
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.llm.sources import model_kind
from rabtriever.persistence.hub import resolve_model
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.cross_encoder import CrossEncoderReranker
from rabtriever.rerankers.generative import GenerativeReranker, RerankerOptions
from rabtriever.rerankers.remote.options import RemoteOptions
from rabtriever.rerankers.remote.reranker import RemoteReranker
from rabtriever.rerankers.remote.source import is_remote
from rabtriever.scoring.calibration import Calibration


def load_reranker(
    name_or_path: str | Path, *, revision: str | None = None, **options: Unpack[RerankerOptions]
) -> GenerativeReranker | CrossEncoderReranker | RemoteReranker:
    """Loads a reranker of whatever kind is there.

    Args:
        name_or_path: ``tools`` (the model that ships), a folder of `rabtriever train` or `rabtriever distill`, a
            cross-encoder of sentence-transformers, or an LLM, which is used as it is; each a folder or a hub id
            ``owner/name``, an LLM also a ``.gguf`` file; or the source of a remote one,
            ``PROTOCOL+URL#MODEL`` (:mod:`rabtriever.rerankers.remote`).
        revision: Branch, tag or commit of a hub id; the main branch if None.
        **options: ``device``, ``dtype`` and ``backend`` of the LLM; ``token`` and ``local_files_only`` of the hub; of
            an LLM that is used as it is, ``preset``, its prompt (``plain`` by default), and its ``task``,
            ``document_name`` and ``query_name`` (:class:`rabtriever.llm.presets.PresetOptions`); of a server,
            ``remote``.

    Raises:
        InputError: no model there, an encoder, or a preset for a model that has a prompt of its own or none.
    """
    loading: Any = {name: value for name, value in options.items() if name in LoadOptions.__annotations__}
    prompting: Any = {name: value for name, value in options.items() if name in PresetOptions.__annotations__ and value}
    kind = reranker_kind(name_or_path, revision=revision, **loading)
    if kind == "encoder":
        raise InputError(f"{name_or_path}: an encoder, which reads no pairs; give an LLM or a cross-encoder")
    if kind == "remote":
        remote: Any = asdict(options.get("remote") or RemoteOptions())
        return RemoteReranker.from_source(str(name_or_path), **(remote | prompting))
    if kind != "cross-encoder":
        return GenerativeReranker.from_pretrained(name_or_path, revision=revision, **options)
    if options.get("preset") or prompting:
        raise InputError(f"{name_or_path}: a cross-encoder has no prompt; leave out preset and task", param="preset")
    return CrossEncoderReranker.from_pretrained(name_or_path, revision=revision, **loading)


def reranker_kind(
    name_or_path: str | Path, *, revision: str | None = None, **options: Unpack[LoadOptions]
) -> Literal["ours", "llm", "cross-encoder", "encoder", "remote"]:
    """Returns what a name stands for, by settings alone; ``ours`` was saved with its prompt."""
    if is_remote(str(name_or_path)):
        return "remote"
    hub = {"revision": revision, **hub_options(options)}
    return "ours" if resolve_model(name_or_path, **hub) else model_kind(str(name_or_path), **hub)


def has_reranker(config: Mapping[str, Any]) -> bool:
    """Returns whether a model's configuration names a reranker."""
    return any(name in config for name in ("llm", "cross_encoder", "remote"))


def restore_reranker(
    folder: Path,
    config: Mapping[str, Any],
    calibration: Calibration | None,
    kv_cache_bytes: int,
    options: LoadOptions,
) -> Reranker:
    """Loads the reranker that ``Reranker.to_config`` describes in the configuration of a model's folder."""
    reranker: Reranker
    if "llm" in config:
        llm = PromptedLLM.from_folder(folder, kv_cache_bytes=kv_cache_bytes, **options)
        return GenerativeReranker(llm, calibration)
    if "remote" in config:
        reranker = RemoteReranker.from_source(**config["remote"])
    else:
        reranker = CrossEncoderReranker.from_pretrained(
            config["cross_encoder"], revision=config.get("cross_encoder_revision"), **options
        )
    reranker.calibration = calibration or reranker.calibration
    return reranker
