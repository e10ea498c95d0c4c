"""Choosing and creating the engine that runs an LLM."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rabtriever.choices import BACKENDS
from rabtriever.errors import InputError
from rabtriever.kernels import why_no_llvm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from rabtriever.llm.backbone import Engine
    from rabtriever.llm.loading import LoadedLLM

SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")  # by the int8 engine


def choose_backend(config: PreTrainedConfig, device: str, backend: str, *, dtype_given: bool) -> str:
    """Returns the name of the engine that will run an LLM; see :func:`choose_engine`."""
    return choose_engine(lambda: why_not_int8(config, device), backend, dtype_given=dtype_given)[0]


def choose_engine(find_obstacle: Callable[[], str | None], backend: str, *, dtype_given: bool) -> tuple[str, str]:
    """Returns the name of the engine that will run a model, and why, as one line.

    ``auto`` is int8 for models that it can run, on a CPU with AVX-512 VNNI, else torch; also torch where the caller
    asked for a data type, which int8 does not have.

    Args:
        find_obstacle: Returns why int8 cannot run the model here; None if it can.
        backend: What the caller asked for.
        dtype_given: Whether the caller asked for a data type.

    Raises:
        InputError: no such backend, or ``int8`` was asked for, and it cannot run the model.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r}: choose from {', '.join(BACKENDS)}", param="backend")
    if backend == "torch":
        return "torch", "asked for"
    if backend == "auto" and dtype_given:
        return "torch", "a data type was asked for"
    obstacle = find_obstacle()
    if backend == "int8":
        if obstacle:
            raise InputError(f"backend 'int8': {obstacle}; use 'torch'", param="backend")
        return "int8", "asked for"
    if obstacle:
        return "torch", f"int8 is {obstacle}"
    from rabtriever.kernels.llvm import VNNI  # imports numba, which a machine that only runs CUDA need not have

    return ("int8", "this CPU has AVX-512 VNNI") if VNNI else ("torch", "this CPU has no AVX-512 VNNI")


def create_engine(llm: LoadedLLM, shared_prefixes: Sequence[Sequence[int]] = ()) -> Engine:
    """Creates the engine of ``llm.backend``; ``shared_prefixes`` are token ids that many texts begin with."""
    if llm.backend == "int8":
        from rabtriever.llm.int8.engine import Int8Engine
        from rabtriever.llm.int8.weight_cache import WeightCache
        from rabtriever.llm.int8.weights import Int8Weights

        cache = WeightCache(llm.weights_hash, llm.config.get_text_config(), llm.dtype, Int8Weights)
        engine = Int8Engine.create(lambda: llm.model, shared_prefixes, cache)
        llm.release_model()
        return engine
    from rabtriever.llm.torch_engine import TorchEngine

    return TorchEngine(llm.model)


def why_not_int8(config: PreTrainedConfig, device: str) -> str | None:
    """Returns why the int8 engine cannot run an LLM, from its configuration alone; None if it can."""
    config = config.get_text_config()
    if obstacle := why_not_here(device):
        return obstacle
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        return f"made for {', '.join(SUPPORTED_MODEL_TYPES)}, not for {config.model_type}"
    if config.hidden_act != "silu" or config.intermediate_size % 16:
        size = config.intermediate_size
        return f"made for silu and sizes that are multiples of 16, not for {config.hidden_act}, {size}"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope") or rope.get("partial_rotary_factor", 1) != 1:
        return f"made for rope over whole heads that does not depend on the length, not for {rope}"
    biased = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    return f"made for biases of queries, keys and values alone, not for {biased[0]}" if biased else None


def why_not_here(device: str) -> str | None:
    """Returns why int8 engines cannot run on this machine or that device; None if they can."""
    if not device.startswith("cpu") or os.name != "posix":
        return f"made for CPUs under Linux or macOS, not for {device} under {sys.platform}"
    return why_no_llvm()
