"""A tuned encoder as its difference to the original: matrices of low rank, some MB instead of all weights.

A folder of two files can be given wherever a sentence-transformers folder can. ``difference.json`` says what it is a
difference to and how texts are read. ``difference.safetensors`` holds of each changed matrix W ``W.a`` float16 (rows,
rank) and ``W.b`` float16 (rank, columns), tuned = original + a b; of each changed vector v ``v.d``. The whole model is
written to the cache when it is first used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabtriever.caching import cache_dir
from rabtriever.encoders.sentence_model import SentenceModel
from rabtriever.encoders.sentence_torch import TorchSentenceEngine
from rabtriever.errors import ConflictError, InputError, StorageError, first_line
from rabtriever.llm.hashing import file_hash
from rabtriever.llm.sources import is_path
from rabtriever.persistence.folder import atomic_folder, write_json
from rabtriever.persistence.hub import DIFFERENCE

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "difference.safetensors"
Find = Callable[[Path], SentenceModel]
"""Reads the files of a model's folder."""


def save_difference(
    original: SentenceModel, tuned: SentenceModel, folder: str | Path, rank: int = 16, revision: str | None = None
) -> float:
    """Writes a folder with what changed from one model to another.

    Exact, to float16, if the model was tuned by an adapter of that rank; the best approximation of it otherwise.

    Args:
        original: The model that was tuned, found by a name: ``minilm``, ``mpnet`` or a hub id.
        tuned: The result.
        folder: To make.
        rank: Of each matrix of the difference.
        revision: Of the original on the hub, if it was not the main branch.

    Returns:
        Share of the difference's squared norm that is lost.

    Raises:
        InputError: the original is a folder, which would be missing elsewhere, or has other layers than the result.
    """
    import torch
    from safetensors.torch import save_file

    if is_path(original.source):
        raise InputError(f"{original.source}: a folder of this machine; give the original by its name or hub id")
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
    described = {"of": original.source, "weights": _files_hash(original), "prompts": tuned.prompts}
    with atomic_folder(folder) as made:
        save_file(tensors, made / WEIGHTS)
        write_json(made / DIFFERENCE, {**described, "truncate_dim": tuned.truncate_dim, "revision": revision})
    return lost / total if total else 0.0


def is_difference(folder: Path) -> bool:
    """Returns whether a folder holds a difference."""
    return (folder.expanduser() / DIFFERENCE).is_file()


def load_difference(folder: Path, find_original: Callable[..., SentenceModel], find: Find) -> SentenceModel:
    """Returns the tuned model, whose files lie in the cache.

    Args:
        folder: What :func:`save_difference` wrote.
        find_original: Finds the original by its name and ``revision``.
        find: Reads a folder.

    Raises:
        InputError: a broken or incomplete difference, or one to other weights than the original has here.
    """
    try:
        described = json.loads((folder / DIFFERENCE).read_text(encoding="utf-8"))
        name, prompts, dimensions = described["of"], described["prompts"], described["truncate_dim"]
        wanted, revision = described["weights"], described["revision"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / DIFFERENCE}: broken ({first_line(error)}); copy the model again") from error
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder}: {WEIGHTS} is missing; copy the whole folder")
    original = find_original(name, revision=revision)
    if wanted != _files_hash(original):
        raise InputError(f"{folder}: tuned from other weights than those of {name} that are here; tune it again")
    original = original.adapt(dimensions, prompts["query"], prompts["document"])
    # Named by what it is made of: the sums' last bits depend on the machine.
    identity = hashlib.sha256(f"{original.fingerprint}+{file_hash(folder / WEIGHTS)}".encode()).hexdigest()
    return replace(_find_whole(original, folder, identity, find), source=str(folder), weights_identity=identity)


def _find_whole(original: SentenceModel, folder: Path, identity: str, find: Find) -> SentenceModel:
    """Returns the whole model, written if it is not in the cache or damaged there."""
    for last in (False, True):
        whole = (Path(_temporary().name) if last else cache_dir() / "encoders") / identity[:32]
        try:
            if whole.is_dir():
                try:
                    return find(whole)
                except InputError:
                    shutil.rmtree(whole)
            whole.parent.mkdir(parents=True, exist_ok=True)
            _write(original, folder, whole)
            return find(whole)
        except (OSError, StorageError) as error:  # a cache that is not writable: once more for this process alone
            failed = error
    raise StorageError(f"{folder}: the whole model cannot be written ({first_line(failed)}); free some space")


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """Returns a folder that goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="rabtriever-")


def _write(original: SentenceModel, difference: Path, place: Path) -> None:
    weights = _changed(original, difference)
    try:
        with atomic_folder(place) as folder:
            save_copy(original, weights, folder)
    except (ConflictError, StorageError):
        if not place.is_dir():  # else another process has written it meanwhile
            raise


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


def _files_hash(model: SentenceModel) -> str:
    """Returns a hash of the weights alone: settings and tokenizer differ between copies of a model."""
    return hashlib.sha256("".join(file_hash(path) for path in model.weight_files).encode()).hexdigest()


def _weights(model: SentenceModel) -> dict[str, Tensor]:
    """Returns a model's weights, float32, by the names that torch gives them."""
    modules = TorchSentenceEngine(model, "cpu", "float32").modules
    return {name: weight.detach() for name, weight in modules.named_parameters()}


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
