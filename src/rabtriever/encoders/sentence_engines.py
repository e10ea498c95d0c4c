"""What computes a sentence-transformers model's embeddings, and which is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rabtriever.encoders.sentence_model import SentenceModel, pooling_modes
from rabtriever.llm import engines
from rabtriever.llm.config_cache import load_config

if TYPE_CHECKING:
    import torch

BERTS = ("bert", "roberta", "xlm-roberta", "mpnet")
IDENTITY = "torch.nn.modules.linear.Identity"


class SentenceEngine(Protocol):
    """Computes embeddings; ``token_budget`` is the most tokens of a batch."""

    token_budget: int

    def encode(self, sequences: Sequence[Sequence[int]], prompt_tokens: int) -> np.ndarray:
        """Returns float32 (n, width), before truncation to fewer dimensions and normalisation.

        Args:
            sequences: Token ids, special tokens and prompt included.
            prompt_tokens: First tokens that a pooling without prompts leaves out.
        """


def choose_engine(model: SentenceModel, device: str, backend: str, *, dtype_given: bool) -> tuple[str, str]:
    """Returns the engine that will run a model, and why, as :func:`rabtriever.llm.engines.choose_engine` does."""
    return engines.choose_engine(
        lambda: engines.why_not_here(device) or why_not_read(model), backend, dtype_given=dtype_given
    )


def create_engine(
    model: SentenceModel,
    backend: str,
    device: str,
    dtype: torch.dtype | str | None,
    prefixes: Sequence[Sequence[int]] = (),
) -> SentenceEngine:
    """Creates an engine by the name that :func:`choose_engine` returned; ``prefixes`` are what texts begin with."""
    from rabtriever.encoders.sentence_torch import TorchSentenceEngine

    if backend == "torch":
        return TorchSentenceEngine(model, device, dtype)

    def load() -> TorchSentenceEngine:
        return TorchSentenceEngine(model, "cpu", "float32")

    if model.config["model_type"] in engines.SUPPORTED_MODEL_TYPES:
        from rabtriever.encoders.int8.causal import CausalSentenceEngine

        return CausalSentenceEngine(model, load, prefixes)
    from rabtriever.encoders.int8.engine import Int8SentenceEngine

    return Int8SentenceEngine.create(model, load)


def why_not_read(model: SentenceModel) -> str | None:
    """Returns why the int8 engine does not read a model, from its settings alone; None if it does."""
    kind, steps = model.config.get("model_type"), [module.kind for module in model.modules[1:]]
    dense = [module.settings for module in model.modules if module.kind == "Dense"]
    if steps[:1] != ["Pooling"] or not {*steps[1:]} <= {"Dense", "Normalize"}:
        return f"made for models of a Transformer, Pooling, Dense and Normalize, not for {', '.join(steps)}"
    if any(step.get("activation_function") != IDENTITY or step.get("use_residual") for step in dense):
        return "made for Dense layers without an activation"
    modes = pooling_modes(model.modules[1])
    if kind in engines.SUPPORTED_MODEL_TYPES:
        if modes != ["lasttoken"] or dense:
            return f"made to read {kind} with lasttoken pooling and no Dense layer, not {', '.join(modes)}"
        return engines.why_not_int8(load_config(model.transformer), "cpu")
    if modes not in (["mean"], ["cls"], ["lasttoken"]):
        return f"made for mean, cls or lasttoken pooling, not for {', '.join(modes)}"
    if kind in BERTS:
        return _why_not_bert(model.config)
    return _why_not_gemma(model.config)


def _why_not_bert(config: dict[str, Any]) -> str | None:
    expected = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    return _why_not_shape(config) or _why_not_settings(config, expected)


def _why_not_gemma(config: dict[str, Any]) -> str | None:
    if config.get("model_type") != "gemma3_text" or not config.get("use_bidirectional_attention"):
        return f"made for {', '.join((*BERTS, *engines.SUPPORTED_MODEL_TYPES))} and bidirectional gemma3_text"
    ropes = [rope for rope in (config.get("rope_parameters") or {}).values() if isinstance(rope, dict)]
    if config.get("rope_scaling") or any(rope.get("rope_type", "default") != "default" for rope in ropes):
        return "made for rope that is not scaled"
    expected = {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "attn_logit_softcapping": None}
    return _why_not_shape(config) or _why_not_settings(config, expected)


def _why_not_shape(config: dict[str, Any]) -> str | None:
    sizes = config["hidden_size"], config["intermediate_size"]
    return f"made for sizes that are multiples of 16, not for {sizes}" if any(size % 16 for size in sizes) else None


def _why_not_settings(config: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Compares settings, which are absent where they are as expected."""
    other = next((name for name, value in expected.items() if config.get(name, value) != value), None)
    return f"made for {other}={expected[other]!r}, not for {config[other]!r}" if other else None
