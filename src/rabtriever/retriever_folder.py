"""A retriever's folder: its encoder, predictor and reranker, written and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rabtriever.encoders.base import Encoder
from rabtriever.encoders.loading import restore_encoder
from rabtriever.errors import InputError, first_line
from rabtriever.llm.loading import LoadOptions
from rabtriever.persistence.folder import EXAMPLES, save_model
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.loading import has_reranker, restore_reranker
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.examples import Examples
from rabtriever.scoring.predictor import QUERY_ADAPTER, TRAINED_ON

if TYPE_CHECKING:
    from rabtriever.rerankers.generative import GenerativeReranker
    from rabtriever.retriever import Rabtriever


def save_retriever(
    retriever: Rabtriever,
    folder: str | Path,
    notes: Mapping[str, Any] | None = None,
    log: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes a retriever's folder; arguments and errors as of :meth:`rabtriever.Rabtriever.save_pretrained`."""
    import torch

    reranker, predictor, encoder = retriever.reranker, retriever.predictor, retriever.encoder.to_config()
    model = reranker.to_config() if reranker else {}
    llm = getattr(retriever.encoder, "llm", None)
    if llm and reranker and llm.fingerprint == reranker.fingerprint:  # the paper's: one LLM for both
        encoder = {name: value for name, value in encoder.items() if name not in model}
    config = {
        **model,
        "encoder": encoder,
        **({"predictor": predictor.to_config()} if predictor else {}),
        "fusion": asdict(retriever.fusion),
        "calibration": {
            "retriever": asdict(retriever.calibration),
            **({"reranked": asdict(retriever.reranked_calibration)} if reranker else {}),
            **({"reranker": asdict(reranker.calibration)} if reranker else {}),
        },
        **({"refusal": retriever.refusal.to_config()} if retriever.refusal.requests else {}),
        **({} if retriever.correction else {"correction": False}),
        **({"examples": len(retriever.examples)} if retriever.examples else {}),
        **({} if retriever.query_adapter is None else {"query_adapter": True}),
        **(notes or {}),
    }
    weights = {TRAINED_ON: torch.from_numpy(retriever.trained_on)} if len(retriever.trained_on) else {}
    weights |= predictor.state_dict() if predictor else {}
    if retriever.query_adapter is not None:
        weights[QUERY_ADAPTER] = torch.from_numpy(retriever.query_adapter)
    adapter = reranker.adapter if reranker else None
    examples = retriever.examples.to_arrays() if retriever.examples else {}
    save_model(folder, config, weights, adapter, retriever.encoder.owned_folder, log, examples)


def load_examples(folder: Path, config: Mapping[str, Any]) -> Examples | None:
    """Loads the examples of a retriever's folder; None if it has none, an InputError if they are missing or broken."""
    if "examples" not in config:
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not (folder / EXAMPLES).is_file():
        raise InputError(f"{folder}: {EXAMPLES} is missing; copy the whole folder or distill again")
    try:
        return Examples.from_arrays(load_file(folder / EXAMPLES))
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{folder}: a broken retriever ({first_line(error)}); distill it again") from error


def load_models(
    folder: Path, config: Mapping[str, Any], calibration: Calibration | None, kv_cache_bytes: int, options: LoadOptions
) -> tuple[Encoder, Reranker | Callable[[], Reranker] | None]:
    """Loads a retriever's encoder, and its reranker or what loads that when it is needed."""

    def load_reranker() -> Reranker:
        return restore_reranker(folder, config, calibration, kv_cache_bytes, options)

    if config["encoder"]["kind"] == "llm" and "llm" not in config["encoder"]:  # the paper's: one LLM for both
        from rabtriever.encoders.llm import LLMEncoder

        reranker = cast("GenerativeReranker", load_reranker())
        return LLMEncoder(reranker.llm, config["encoder"]["pooling"]), reranker
    return restore_encoder(config["encoder"], options), load_reranker if has_reranker(config) else None
