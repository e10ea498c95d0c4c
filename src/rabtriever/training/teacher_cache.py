"""Outputs of frozen models on disk: a pair is scored once, a text encoded once, however often a training is run."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import cast
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from rabtriever.caching import cache_dir
from rabtriever.encoders.base import Encoder, Kind
from rabtriever.errors import InputError
from rabtriever.progress import bar, is_shown
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.remote.reranker import RemoteReranker
from rabtriever.training import processes

VECTORS_PER_SHARD = 1024  # an interruption loses fewer


class TeacherCache:
    """States of an encoder, or log-odds and context embeddings of a reranker, on disk.

    A hash of everything that changes the numbers, the model's ``fingerprint`` and ``numerics``, names the folder. A
    hash of the texts names the vector. In memory are only the names.

    Args:
        model: The encoder or reranker.
        folder: Folder of all caches; by default ``states`` in :func:`rabtriever.caching.cache_dir`.

    Raises:
        InputError: a file of the cache is broken.
    """

    def __init__(self, model: Encoder | Reranker, folder: str | Path | None = None) -> None:
        self.model = model
        self.folder = Path(folder or cache_dir() / "states") / _key(model.fingerprint, model.numerics).hex()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[bytes, tuple[Path, int]] = {}  # key -> shard and row
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._add(shard, _read(shard, "keys"))

    def states(self, kind: Kind, texts: Sequence[str]) -> Tensor:
        """Returns an encoder's states of queries or documents, float32 (n, H)."""
        encoder = cast(Encoder, self.model)
        encode = encoder.encode_queries if kind == "query" else encoder.encode_documents
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        keys, label = [_key(kind, text) for text in texts], f"{encoder.describe()['name']}: {kind} states"

        def compute(rows: list[int]) -> np.ndarray:
            return encode([texts[i] for i in rows], None, is_shown())

        vectors, _ = self._fetch(keys, order, compute, label, range(len(keys)))
        return vectors.reshape(len(texts), encoder.hidden_size)

    def scores(self, queries: Sequence[str], documents: Sequence[str], pairs: Tensor) -> tuple[Tensor, Tensor, int]:
        """Scores pairs int64 (n, 2) of positions by a reranker.

        Returns:
            Log-odds float32 (n,); context embeddings z*(q, d) float32 (n, H), or (n, 0) of a reranker without them; how
            many pairs were not cached.
        """
        reranker = cast(Reranker, self.model)
        keys = [_key("pair", queries[q], documents[d]) for q, d in pairs.tolist()]

        def compute(rows: list[int]) -> np.ndarray:
            shown = {"with_states": reranker.has_states, "show_progress_bar": is_shown()}
            scores = reranker.score(queries, documents, pairs[rows].numpy(), **shown)
            log_odds = scores.log_odds[:, None]
            return log_odds if scores.states is None else np.concatenate([log_odds, scores.states], axis=1)

        # Pairs of one document side by side: a shard then takes few documents.
        order, of_document = pairs[:, 1].argsort(stable=True).tolist(), pairs[:, 1].tolist()
        vectors, n_new = self._fetch(keys, order, compute, "teacher calls", of_document)
        return vectors[:, 0], vectors[:, 1:], n_new

    def _fetch(
        self,
        keys: list[bytes],
        order: list[int],
        compute: Callable[[list[int]], np.ndarray],
        label: str,
        groups: Sequence[int],
    ) -> tuple[Tensor, int]:
        """Returns the vectors of ``keys``, computing in ``order`` and storing those that are not cached.

        Processes divide the work; vectors of one of the ``groups`` stay together.
        """

        def absent() -> list[int]:
            return list({keys[i]: i for i in order if keys[i] not in self._rows}.values())

        def make(missing: list[int]) -> list[str]:
            made = []
            with bar(len(missing), label) as shown:
                for start in range(0, len(missing), VECTORS_PER_SHARD):
                    rows = missing[start : start + VECTORS_PER_SHARD]
                    made.append(self._write([keys[i] for i in rows], compute(rows)))
                    shown.update(len(rows))
            return made

        missing = processes.agree(absent())
        own = self._share(missing, groups)
        made = processes.together(lambda: make(own))
        processes.together(lambda: self._find(chain(*made[: processes.rank()], *made[processes.rank() + 1 :])))
        make(absent())  # what a process asks for alone, since it rounded otherwise than the first
        by_shard: dict[Path, list[int]] = defaultdict(list)
        for i, key in enumerate(keys):
            by_shard[self._rows[key][0]].append(i)
        result = np.empty((len(keys), 0), np.float32)
        for shard, positions in by_shard.items():
            vectors = _read(shard, "vectors")
            if not result.shape[1]:
                result = np.empty((len(keys), vectors.shape[1]), np.float32)
            result[positions] = vectors[[self._rows[keys[i]][1] for i in positions]]
        return torch.from_numpy(result), len(missing)

    def _share(self, missing: list[int], groups: Sequence[int]) -> list[int]:
        """Returns what this process computes; of a remote model, which has one budget, the first computes all."""
        if isinstance(self.model, RemoteReranker):
            return [] if processes.rank() else missing
        return _divide(missing, groups, processes.count())[processes.rank()]

    def _find(self, names: Iterable[str]) -> None:
        """Adds shards that other processes have written."""
        for shard in (self.folder / name for name in names):
            processes.require_shared(shard)
            self._add(shard, _read(shard, "keys"))

    def _write(self, keys: list[bytes], vectors: np.ndarray) -> str:
        """Writes a shard, completely or not at all; returns its name."""
        table = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
        shard = self.folder / f"{hashlib.sha256(table.tobytes()).hexdigest()[:16]}.safetensors"
        temporary = shard.with_suffix(f".{uuid4().hex}.partial")
        save_file({"keys": table, "vectors": np.ascontiguousarray(vectors, np.float32)}, temporary)
        os.replace(temporary, shard)
        self._add(shard, table)
        return shard.name

    def _add(self, shard: Path, table: np.ndarray) -> None:
        self._rows.update((bytes(key), (shard, row)) for row, key in enumerate(table))


def _divide(missing: list[int], groups: Sequence[int], n: int) -> list[list[int]]:
    """Divides positions into n shares of about the same length; those of one group stay together, in their order."""
    by_group: dict[int, list[int]] = defaultdict(list)
    for i in missing:
        by_group[groups[i]].append(i)
    shares: list[list[int]] = [[] for _ in range(n)]
    for members in by_group.values():
        min(shares, key=len).extend(members)
    return shares


def _read(shard: Path, name: str) -> np.ndarray:
    """Returns one array of a shard; the file's others are not read."""
    try:
        with safe_open(shard, framework="numpy") as file:
            return cast(np.ndarray, file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{shard}: not a readable cache file ({error}); delete it") from error


def _key(*parts: str) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]
