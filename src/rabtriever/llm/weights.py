"""A model folder's files read: configuration, tokenizer, model with a PEFT adapter merged, or a few rows of weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from rabtriever.errors import InputError, first_line
from rabtriever.llm import config_cache
from rabtriever.llm.sources import ADAPTER_WEIGHTS, ModelFiles

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_config(source: str, files: ModelFiles) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Loads the configuration and tokenizer, and checks that the files of weights are whole."""
    with _readable(source):
        next(_tensors(files.folder), None)
        return config_cache.load_config(files.folder), config_cache.load_tokenizer(files.folder)


def load_model(source: str, files: ModelFiles, dtype: torch.dtype) -> PreTrainedModel:
    """Loads the model on the CPU."""
    from transformers import AutoModelForCausalLM

    with no_progress_bar(), _readable(source):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(files.folder, dtype=dtype)
    return model


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Silences transformers' progress bar, which takes a quarter of a second."""
    from transformers.utils import logging

    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bar:
            logging.enable_progress_bar()


def load_merged(source: str, files: ModelFiles, adapter: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Loads the model on the CPU with a PEFT adapter merged into it: in float32, then rounded once.

    The model is read in the type of its file, and one layer at a time is in float32: all of it would be twice the
    memory of most LLMs.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = load_model(source, files, _stored_dtype(files.folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by a name that is going away; layers are merged here
        try:
            adapted = PeftModel.from_pretrained(model, adapter)
            for layer in (module for module in adapted.modules() if isinstance(module, BaseTunerLayer)):
                base = layer.get_base_layer().float()
                layer.merge()
                base.to(dtype)
            merged: PreTrainedModel = adapted.merge_and_unload()
        except (RuntimeError, ValueError, SafetensorError) as error:
            raise InputError(
                f"{adapter}: does not fit its LLM ({first_line(error)}); give the adapter's own"
            ) from error
    # Parameters alone, no buffer: rope frequencies in bfloat16 are a radian off at position 700.
    for weight in merged.parameters():
        weight.data = weight.data.to(dtype)
    return merged


def _stored_dtype(folder: Path) -> torch.dtype:
    """Returns the type that holds a folder's weights exactly: float32 unless all are of one shorter type."""
    found = {str(file.get_slice(name).get_dtype()) for name, file in _tensors(folder)}
    shorter = {"BF16": torch.bfloat16, "F16": torch.float16}
    return shorter.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32


def read_output_rows(
    config: PreTrainedConfig, files: ModelFiles, adapter: Path | None, rows: tuple[int, ...]
) -> list[torch.Tensor] | None:
    """Reads rows of lm_head without loading the model; None if the files do not say clearly what they are."""
    tied = config.get_text_config().tie_word_embeddings
    found = {}
    for name, file in _tensors(files.folder):
        if name.endswith(("lm_head.weight", "embed_tokens.weight")):
            found[name.split(".")[-2]] = [file.get_slice(name)[row] for row in rows]
    if tied == ("lm_head" in found):
        return None  # transformers decides
    if adapter is not None:
        with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
            if any("lm_head" in name or "embed_tokens" in name for name in file.keys()):  # noqa: SIM118
                return None
    return found.get("embed_tokens" if tied else "lm_head")


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yields the name of each saved tensor and the open file that holds it; every file's header is checked first."""
    files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
    return ((name, file) for file in files for name in file.keys())  # noqa: SIM118


@contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # what transformers raises of broken files
        raise InputError(
            f"{source}: no model could be loaded ({first_line(error)}); give a folder, a .gguf file or a hub id"
        ) from error
