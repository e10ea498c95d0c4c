"""Which backend runs an LLM."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from transformers import PreTrainedModel

from rabtriever.errors import InputError
from rabtriever.kernels import why_no_llvm
from rabtriever.llm.backbone import Engine
from rabtriever.llm.torch_engine import TorchEngine

BACKENDS = (
    "auto",
    "torch",
    "int8",
)
SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


def choose_backend(model: PreTrainedModel, backend: str, dtype_given: bool) -> str:
    """The backend's name.

    Args:
        model: The LLM, where it will run.
        backend: ``torch``, ``int8``, or ``auto``: int8 for LLMs that it can run, on a CPU with AVX-512
            VNNI, else torch.
        dtype_given: Whether the caller asked for a data type, which int8 does not have: ``auto`` is then torch.

    Raises:
        InputError: no such backend, or it cannot run this LLM here.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r}: choose from {', '.join(BACKENDS)}")
    if backend == "torch" or (backend == "auto" and dtype_given):
        return "torch"
    obstacle = why_not_int8(model)
    if backend == "int8":
        if obstacle:
            raise InputError(f"backend 'int8': {obstacle}; take 'torch'")
        return "int8"
    return "torch" if obstacle or not has_vnni() else "int8"


def create_engine(
    model: PreTrainedModel, backend: str, prefixes: Sequence[Sequence[int]] = (), weights_hash: str | None = None
) -> Engine:
    """Makes the backend itself.

    Args:
        model: The LLM.
        backend: What :func:`choose_backend` returned.
        prefixes: Token ids that texts will begin with.
        weights_hash: Identifies the weights, whose conversion is then cached on disk; None caches nothing.
    """
    if backend == "torch":
        return TorchEngine(model)
    from rabtriever.llm.int8.engine import Int8Engine
    from rabtriever.llm.int8.weight_cache import WeightCache

    cache = None if weights_hash is None else WeightCache(weights_hash, model.config.get_text_config(), model.dtype)
    return Int8Engine.create(lambda: model, prefixes, cache)


def has_vnni() -> bool:
    """Whether this CPU multiplies bytes by AVX-512 VNNI."""
    from rabtriever.kernels.llvm import VNNI  # numba's world: a machine that only runs CUDA need not have it

    return VNNI


def why_not_int8(model: PreTrainedModel) -> str | None:
    """Why int8 cannot run this LLM; None if it can."""
    config, obstacle = model.config.get_text_config(), why_no_llvm()
    if obstacle:
        return obstacle
    if model.device.type != "cpu" or os.name != "posix":
        return f"made for CPUs under Linux or macOS, not for {model.device.type} under {sys.platform}"
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        return f"made for {', '.join(SUPPORTED_MODEL_TYPES)}, not for {config.model_type}"
    if config.hidden_act != "silu" or config.intermediate_size % 16:
        size = config.intermediate_size
        return f"made for silu and sizes that are multiples of 16, not for {config.hidden_act}, {size}"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope") or rope.get("partial_rotary_factor", 1) != 1:
        return f"made for whole heads turned alike at every length, not for {rope}"
    layer = model.get_decoder().layers[0]
    plain = {"self_attn.o_proj": layer.self_attn.o_proj, **{f"mlp.{name}": m for name, m in layer.mlp.named_children()}}
    biased = [name for name, module in plain.items() if getattr(module, "bias", None) is not None]
    return f"made for biases of queries, keys and values alone, not of {biased[0]}" if biased else None
