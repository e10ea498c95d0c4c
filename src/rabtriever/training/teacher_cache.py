"""Outputs of the frozen LLM on disk: a pair is scored once, a text encoded once, however often a training is run."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from tqdm.auto import tqdm

from rabtriever.caching import cache_dir
from rabtriever.encoders.base import Kind
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import InputError
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.rerankers.generative import GenerativeReranker

VECTORS_PER_SHARD = 1024  # an interruption loses fewer
ENGINE_VERSION = 1  # to be raised with every change to an engine or a prompt that changes states


class TeacherCache:
    """Context embeddings of a teacher, and states of encoders, on disk.

    A hash of everything that changes the numbers names the folder: weights, adapter and prompt, backend, data type,
    kind of device and version of the engines. A hash of the texts names the vector. In memory are only the names.

    Args:
        teacher: The reranker.
        folder: Folder of all caches; by default ``states`` in :func:`rabtriever.caching.cache_dir`.

    Raises:
        InputError: a file of the cache is broken.
    """

    def __init__(self, teacher: GenerativeReranker, folder: str | Path | None = None) -> None:
        self.teacher = teacher
        self.folder = Path(folder or cache_dir() / "states") / _key(*_identity(teacher.llm)).hex()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[bytes, tuple[Path, int]] = {}  # key -> shard and row
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._add(shard, _read(shard, "keys"))

    def context_embeddings(self, queries: Sequence[str], documents: Sequence[str], pairs: Tensor) -> tuple[Tensor, int]:
        """Returns z*(q, d), float32 (n, H), of pairs int64 (n, 2) of positions, and how many had to be scored."""
        keys = [_key("pair", queries[q], documents[d]) for q, d in pairs.tolist()]

        def compute(rows: list[int]) -> np.ndarray:
            scores = self.teacher.score(queries, documents, pairs[rows].numpy(), with_states=True)
            return cast(np.ndarray, scores.states)

        # Pairs of one document side by side: a shard then takes few documents.
        return self._fetch(keys, pairs[:, 1].argsort(stable=True).tolist(), compute, "teacher calls")

    def states(self, encoder: LLMEncoder, kind: Kind, texts: Sequence[str]) -> Tensor:
        """Returns an encoder's states of queries or documents, float32 (n, H)."""
        identity = [*_identity(encoder.llm), encoder.pooling, kind]
        encode = encoder.encode_queries if kind == "query" else encoder.encode_documents
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        keys = [_key(*identity, text) for text in texts]
        return self._fetch(keys, order, lambda rows: encode([texts[i] for i in rows]), f"{kind} states")[0]

    def _fetch(
        self, keys: list[bytes], order: list[int], compute: Callable[[list[int]], np.ndarray], label: str
    ) -> tuple[Tensor, int]:
        """Returns the vectors of ``keys``, computing in ``order`` and storing those that are not cached."""
        missing = list({keys[i]: i for i in order if keys[i] not in self._rows}.values())
        with tqdm(total=len(missing), desc=label, disable=None if missing else True) as bar:
            for start in range(0, len(missing), VECTORS_PER_SHARD):
                rows = missing[start : start + VECTORS_PER_SHARD]
                self._write([keys[i] for i in rows], compute(rows))
                bar.update(len(rows))
        result = np.empty((len(keys), self.teacher.llm.hidden_size), np.float32)
        by_shard: dict[Path, list[int]] = defaultdict(list)
        for i, key in enumerate(keys):
            by_shard[self._rows[key][0]].append(i)
        for shard, positions in by_shard.items():
            result[positions] = _read(shard, "vectors")[[self._rows[keys[i]][1] for i in positions]]
        return torch.from_numpy(result), len(missing)

    def _write(self, keys: list[bytes], vectors: np.ndarray) -> None:
        """Writes a shard, completely or not at all."""
        table = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
        shard = self.folder / f"{hashlib.sha256(table.tobytes()).hexdigest()[:16]}.safetensors"
        temporary = shard.with_suffix(f".{uuid4().hex}.partial")
        save_file({"keys": table, "vectors": np.ascontiguousarray(vectors, np.float32)}, temporary)
        os.replace(temporary, shard)
        self._add(shard, table)

    def _add(self, shard: Path, table: np.ndarray) -> None:
        self._rows.update((bytes(key), (shard, row)) for row, key in enumerate(table))


def _read(shard: Path, name: str) -> np.ndarray:
    """Returns one array of a shard; the file's others are not read."""
    try:
        with safe_open(shard, framework="numpy") as file:
            return cast(np.ndarray, file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{shard}: not a readable cache file ({error}); delete it") from error


def _identity(llm: PromptedLLM) -> list[str]:
    """Returns everything that changes an LLM's states of given texts."""
    loaded = llm.loaded
    device = llm.backbone.device.type
    return [llm.fingerprint, loaded.backend, str(loaded.model.dtype), device, str(ENGINE_VERSION)]


def _key(*parts: str) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]
