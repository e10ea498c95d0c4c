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
from dataclasses import asdict
from typing import Any

import numpy as np

from rabtriever.caching import cache_dir
from rabtriever.llm.int8.weights import LINEARS, Int8Weights, LLMShape

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
ARRAYS = ("bias", "norms", "embeddings", "final_norm", "frequencies")


class WeightCache:
    """The folder of one LLM's converted weights, ``<cache folder>/int8/<key>``.

    Its arrays are mapped into memory, so that processes share them and only what is read is loaded. A folder that
    cannot be read or written is as good as none. When all folders hold more than ``MAX_CACHE_BYTES``, the least
    recently used are removed; a process that has one mapped goes on.
    """

    def __init__(self, weights_hash: str, config: Any, dtype: Any) -> None:
        details = {name: getattr(config, name, None) for name in CONFIG_FIELDS}
        described = json.dumps([FORMAT, weights_hash, str(dtype), details], sort_keys=True, default=str)
        self.folder = cache_dir() / "int8" / hashlib.sha256(described.encode()).hexdigest()[:32]

    def load(self) -> Int8Weights | None:
        """Returns the weights, mapped; None if they are not cached."""
        try:
            shape = LLMShape(**json.loads((self.folder / "shape.json").read_text()))
            arrays: dict[str, Any] = {name: self._map(name) for name in ARRAYS}
            arrays |= {name: tuple(self._map(f"{name}-{part}") for part in PARTS) for name in LINEARS}
            os.utime(self.folder, ns=(time.time_ns(),) * 2)  # finer than the file system's own clock
        except (OSError, ValueError, TypeError, EOFError):
            return None
        return Int8Weights(**arrays, shape=shape)

    def save(self, weights: Int8Weights) -> Int8Weights:
        """Caches weights; returns them mapped, or as they are if they cannot be written."""
        temporary = self.folder.parent / f".{uuid.uuid4().hex}"
        try:
            temporary.mkdir(parents=True)
            arrays = {name: getattr(weights, name) for name in ARRAYS}
            for name in LINEARS:
                arrays |= dict(zip([f"{name}-{part}" for part in PARTS], getattr(weights, name), strict=True))
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array, allow_pickle=False)
            (temporary / "shape.json").write_text(json.dumps(asdict(weights.shape)))
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
