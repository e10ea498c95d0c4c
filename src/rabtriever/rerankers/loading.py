"""The reranker of a saved model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabtriever.rerankers.base import Reranker
from rabtriever.scoring.calibration import Calibration

if TYPE_CHECKING:
    from rabtriever.llm.loading import LoadOptions


def has_reranker(config: Mapping[str, Any]) -> bool:
    """Returns whether a model's configuration names a reranker."""
    return "llm" in config or "cross_encoder" in config or "remote" in config


def restore_reranker(
    folder: Path,
    config: Mapping[str, Any],
    calibration: Calibration | None,
    kv_cache_bytes: int,
    options: LoadOptions,
) -> Reranker:
    """Loads the reranker that ``Reranker.to_config`` describes in the configuration of a model's folder."""
    from rabtriever.llm.prompted import PromptedLLM
    from rabtriever.rerankers.generative import GenerativeReranker

    return GenerativeReranker(PromptedLLM.from_folder(folder, kv_cache_bytes=kv_cache_bytes, **options), calibration)
