"""Which of several ways each part of the package takes here, and why not a faster one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rabtriever.errors import first_line
from rabtriever.kernels import why_no_llvm


def choose_paths(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Returns, for each part, what it ``runs`` and ``why``.

    Args:
        models: As of :func:`rabtriever.doctor.installation.find_models`.
    """
    parts: dict[str, Callable[[], tuple[str, str]]] = {
        "encoder": lambda: _encoder(models["minilm"]),
        "reranker": lambda: _reranker(models["smollm2"]),
        "search": _search,
        "compiled code": _compiled_code,
        "training": _training,
    }
    return {part: dict(zip(("runs", "why"), _ask(choose), strict=True)) for part, choose in parts.items()}


def _ask(choose: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    try:
        return choose()
    except Exception as error:  # whatever a broken library raises
        return "nothing", first_line(error)


def _encoder(minilm: Mapping[str, Any]) -> tuple[str, str]:
    from rabtriever.encoders.sentence_engines import choose_engine
    from rabtriever.encoders.sentence_files import find_sentence_model
    from rabtriever.llm.loading import choose_device

    if minilm["fault"]:
        return "nothing", minilm["fault"]
    model = find_sentence_model("minilm", local_files_only=True)
    return choose_engine(model, choose_device(None), "auto", dtype_given=False)


def _reranker(smollm2: Mapping[str, Any]) -> tuple[str, str]:
    from rabtriever.llm.config_cache import load_config
    from rabtriever.llm.engines import choose_engine, why_not_here, why_not_int8
    from rabtriever.llm.loading import choose_device
    from rabtriever.llm.sources import converted_folder

    if smollm2["fault"]:
        return "nothing", smollm2["fault"]
    device, folder = choose_device(None), converted_folder(Path(smollm2["folder"]))
    if (folder / "config.json").is_file():
        return choose_engine(lambda: why_not_int8(load_config(folder), device), "auto", dtype_given=False)
    engine, why = choose_engine(lambda: why_not_here(device), "auto", dtype_given=False)  # it is a Llama
    return engine, f"{why}; converted at its first use, which takes about half a minute"


def _search() -> tuple[str, str]:
    if obstacle := why_no_llvm():
        return "torch", f"the compiled kernel, which is faster, is not available: {obstacle}"
    from rabtriever.kernels.llvm import VNNI

    if VNNI:
        return "compiled kernel", "this CPU has AVX-512 VNNI"
    return "compiled kernel", "without AVX-512 VNNI, which this CPU lacks: slower"


def _compiled_code() -> tuple[str, str]:
    if obstacle := why_no_llvm():
        return "nothing", obstacle
    from rabtriever.kernels.compile import compiled_folder

    if compiled_folder() is None:
        return "compiled anew in each process", "the cache folder is not writable"
    return "cached", "the cache folder is writable; the first use compiles for up to half a minute"


def _training() -> tuple[str, str]:
    import torch

    from rabtriever.llm.loading import choose_device, native_dtype

    device = choose_device(None)
    dtype = str(native_dtype(device)).removeprefix("torch.")
    why = "multiplies it" if dtype == "bfloat16" else "does not multiply bfloat16"
    where = "no CUDA device" if device == "cpu" else torch.cuda.get_device_name(device)
    return f"torch on {device}, {dtype}", f"{where}; the hardware {why}"
