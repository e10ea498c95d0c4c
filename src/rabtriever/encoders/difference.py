"""A tuned encoder as its difference to the original: matrices of low rank, some MB instead of all weights.

A folder of two files can be given wherever a sentence-transformers folder can: ``difference.json``, what it is a
difference to, and ``difference.safetensors``. Of each changed matrix W that holds ``W.a`` float16 (rows, rank) and
``W.b`` float16 (rank, columns), tuned = original + a b; of each changed vector ``v.d``. The whole model is written to
the cache when it is first used.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabtriever.caching import cache_dir
from rabtriever.encoders.sentence_model import SentenceModel
from rabtriever.encoders.sentence_torch import TorchSentenceEngine
from rabtriever.errors import ConflictError, InputError, first_line
from rabtriever.llm.hashing import file_hash
from rabtriever.persistence.folder import atomic_folder, write_json
from rabtriever.persistence.hub import DIFFERENCE

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "difference.safetensors"


def save_difference(original: SentenceModel, tuned: SentenceModel, folder: str | Path, rank: int = 16) -> float:
    """Writes a folder with what changed from one model to another.

    Exact, to float16, if the model was tuned by an adapter of that rank; the best approximation of it otherwise.

    Args:
        original: The model that was tuned.
        tuned: The result.
        folder: To make.
        rank: Of each matrix of the difference.

    Returns:
        Share of the difference's squared norm that is lost.

    Raises:
        InputError: not the same layers in both models.
    """
    import torch
    from safetensors.torch import save_file

    before, after = _weights(original), _weights(tuned)
    if before.keys() != after.keys() or any(before[name].shape != after[name].shape for name in before):
        raise InputError(f"{tuned.source}: other layers than {original.source}; give the model that it was tuned from")
    tensors: dict[str, Tensor] = {}
    total = lost = 0.0
    for name, weight in before.items():
        change = after[name] - weight
        if not change.any():
            continue
        if change.dim() == 2:
            u, s, v = torch.svd_lowrank(change, min(rank + 8, *change.shape), niter=4)
            root = s[:rank].sqrt()
            a, b = (u[:, :rank] * root).half(), (v[:, :rank] * root).T.half()
            tensors |= {f"{name}.a": a.contiguous(), f"{name}.b": b.contiguous()}
            error = change - a.float() @ b.float()
        else:
            tensors[f"{name}.d"] = change.half()
            error = change - change.half().float()
        total, lost = total + float(change.square().sum()), lost + float(error.square().sum())
    with atomic_folder(folder) as made:
        save_file(tensors, made / WEIGHTS)
        write_json(made / DIFFERENCE, {"of": original.source, "weights": _files_hash(original)})
    return lost / total if total else 0.0


def is_difference(folder: Path) -> bool:
    """Returns whether a folder holds a difference."""
    return (folder.expanduser() / DIFFERENCE).is_file()


def find_original(folder: Path) -> str:
    """Returns the name of the model that a folder is a difference to; an InputError says that it is broken."""
    try:
        return str(json.loads((folder / DIFFERENCE).read_text(encoding="utf-8"))["of"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / DIFFERENCE}: broken ({first_line(error)}); copy the model again") from error


def apply_difference(original: SentenceModel, folder: Path, find: Callable[[Path], SentenceModel]) -> SentenceModel:
    """Returns the tuned model, whose files lie in the cache.

    Args:
        original: The model that it is a difference to.
        folder: What :func:`save_difference` wrote.
        find: Reads a model's folder.

    Raises:
        InputError: the difference is broken, or one to other weights.
    """
    wanted = json.loads((folder / DIFFERENCE).read_text(encoding="utf-8")).get("weights")
    if wanted != _files_hash(original):
        fault = f"tuned from other weights than those of {original.source} that are here"
        raise InputError(f"{folder}: {fault}; load {original.source} anew, or tune again")
    identity = f"{original.weights_hash}+{file_hash(folder / WEIGHTS)}"
    whole = cache_dir() / "encoders" / identity[-32:]
    if not whole.is_dir():
        try:
            whole = _write(original, _changed(original, folder), whole)
        except OSError:  # a cache that is not writable
            whole = _write(original, _changed(original, folder), Path(tempfile.mkdtemp()) / "encoder")
    # Named by what it is made of: the sums' last bits depend on the machine.
    return replace(find(whole), source=str(folder), weights_identity=identity)


def _files_hash(model: SentenceModel) -> str:
    """Returns a hash of the weights alone: settings and tokenizer differ between copies of a model."""
    return hashlib.sha256("".join(file_hash(path) for path in model.weight_files).encode()).hexdigest()


def _changed(original: SentenceModel, folder: Path) -> dict[str, Tensor]:
    """Returns the tuned model's changed weights."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = _weights(original)
    try:
        tensors = load_file(folder / WEIGHTS)
        changes = {name[:-2]: value.float() for name, value in tensors.items() if name.endswith(".d")}
        changes |= {
            name[:-2]: value.float() @ tensors[f"{name[:-2]}.b"].float()
            for name, value in tensors.items()
            if name.endswith(".a")
        }
        return {name: weights[name] + change for name, change in changes.items()}
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(f"{folder / WEIGHTS}: broken ({first_line(error)}); copy the model again") from error


def _weights(model: SentenceModel) -> dict[str, Tensor]:
    """Returns a model's weights, float32, by the names that torch gives them."""
    modules = TorchSentenceEngine(model, "cpu", "float32").modules
    return {name: weight.detach() for name, weight in modules.named_parameters()}


def _write(original: SentenceModel, weights: Mapping[str, Tensor], place: Path) -> Path:
    """Writes the original with some weights replaced; another process may have done so meanwhile."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_folder(place) as folder:
            save_copy(original, weights, folder)
    except (ConflictError, OSError):
        if not place.is_dir():
            raise
    return place


def save_copy(original: SentenceModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Writes a model with other weights as a sentence-transformers folder, which reads texts as the original does.

    Args:
        original: The model's files with the user's choices: prompts, dimensions.
        weights: Those that are replaced, by their names in torch.
        folder: An existing, empty folder.
    """
    import torch

    modules: Any = TorchSentenceEngine(original, "cpu", "float32").modules
    with torch.no_grad():
        for name, weight in modules.named_parameters():
            if name in weights:
                weight.copy_(weights[name])
    modules.prompts, modules.default_prompt_name = dict(original.prompts), None
    modules.truncate_dim = original.truncate_dim
    modules.similarity_fn_name = original.similarity
    modules.save(str(folder), create_model_card=False)
