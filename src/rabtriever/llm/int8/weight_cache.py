"""Converted weights on disk, so that only an LLM's first start needs its torch model."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any, Generic, TypeVar

import numpy as np

from rabtriever.caching import cache_dir

Weights = TypeVar("Weights")
FORMAT = 1  # raise it when conversion or the arrays change
MAX_CACHE_BYTES = 8 * 2**30  # of all LLMs; beyond, the least recently used are removed
CONFIG_FIELDS = (  # of transformers, that change numbers but no weight's shape
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_parameters",
    "max_position_embeddings",
)
PARTS = ("codes", "offsets", "scales")


class WeightCache(Generic[Weights]):
    """The folder of one model's converted weights, ``<cache folder>/int8/<key>``.

    Its arrays are mapped into memory, so that processes share them and only what is read is loaded. A folder that
    cannot be read or written is as good as none. When all folders hold more than ``MAX_CACHE_BYTES``, the least
    recently used are removed; a process that has one mapped goes on.

    Args:
        weights_hash: Of the model's files.
        config: Its configuration, of which some fields count beside the files.
        dtype: Of what is converted.
        kind: The dataclass of the weights: arrays, linear maps (``Linear``) and ``shape``, of its ``shape_type``.
    """

    def __init__(self, weights_hash: str, config: Any, dtype: Any, kind: type[Weights]) -> None:
        details = {name: getattr(config, name, None) for name in CONFIG_FIELDS}
        described = json.dumps([FORMAT, weights_hash, str(dtype), details], sort_keys=True, default=str)
        self.folder, self.kind = cache_dir() / "int8" / hashlib.sha256(described.encode()).hexdigest()[:32], kind

    def load(self) -> Weights | None:
        """Returns the weights, mapped; None if they are not cached."""
        kind: Any = self.kind
        try:
            found: dict[str, Any] = {"shape": kind.shape_type(**json.loads((self.folder / "shape.json").read_text()))}
            for field in fields(kind):
                if field.type == "Linear":
                    found[field.name] = tuple(self._map(f"{field.name}-{part}") for part in PARTS)
                elif field.name != "shape":
                    found[field.name] = self._map(field.name)
            os.utime(self.folder, ns=(time.time_ns(),) * 2)  # finer than the file system's own clock
        except (OSError, ValueError, TypeError, EOFError):
            return None
        weights: Weights = kind(**found)
        return weights

    def save(self, weights: Weights) -> Weights:
        """Caches weights; returns them mapped, or as they are if they cannot be written."""
        temporary = self.folder.parent / f".{uuid.uuid4().hex}"
        try:
            temporary.mkdir(parents=True)
            for field in fields(weights):  # type: ignore[arg-type]
                value = getattr(weights, field.name)
                if field.name == "shape":
                    (temporary / "shape.json").write_text(json.dumps(asdict(value)))
                elif field.type == "Linear":
                    for part, array in zip(PARTS, value, strict=True):
                        np.save(temporary / f"{field.name}-{part}.npy", array, allow_pickle=False)
                else:
                    np.save(temporary / f"{field.name}.npy", value, allow_pickle=False)
            if self.load() is None:  # else another process was faster
                shutil.rmtree(self.folder, ignore_errors=True)
                os.replace(temporary, self.folder)
            self._remove_oldest()
        except OSError:
            pass
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self.load() or weights

    def arrays(self, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Returns small arrays, which ``name`` identifies among these weights', cached or computed."""
        path = self.folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            found = compute()
        temporary = self.folder / f".{uuid.uuid4().hex}.npz"
        try:
            np.savez(temporary, **found)  # type: ignore[arg-type]
            os.replace(temporary, path)
        except OSError:  # no room, or no folder since the weights could not be written
            with suppress(OSError):
                temporary.unlink()
        return found

    def _map(self, name: str) -> np.ndarray:
        # Copy on write: for numba an array that may not be written is another type. Nobody writes to it.
        return np.load(self.folder / f"{name}.npy", "c", allow_pickle=False).view(np.ndarray)

    def _remove_oldest(self) -> None:
        folders = [folder for folder in self.folder.parent.iterdir() if folder.is_dir()]
        sizes = {folder: sum(file.stat().st_size for file in folder.iterdir()) for folder in folders}
        for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime):
            if sum(sizes.values()) <= MAX_CACHE_BYTES or folder == self.folder:
                return
            del sizes[folder]
            shutil.rmtree(folder, ignore_errors=True)
