"""Outputs of frozen models on disk: a pair is scored once, a text encoded once, however often a training is run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from rabtriever.caching import cache_dir
from rabtriever.encoders.base import Encoder, Kind
from rabtriever.persistence.vectors import VECTORS_PER_SHARD, VectorFolder, text_key
from rabtriever.progress import bar, is_shown
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.remote.reranker import RemoteReranker
from rabtriever.rerankers.store import ScoreStore, folder_name, pair_key
from rabtriever.training import processes


class TeacherCache:
    """States of an encoder, or log-odds and context embeddings of a reranker, on disk.

    A hash of everything that changes the numbers, the model's ``fingerprint`` and ``numerics``, names the folder. A
    hash of the texts names the vector. In memory are only the names.

    Args:
        model: The encoder or reranker.
        folder: Folder of all caches; by default ``states`` in :func:`rabtriever.caching.cache_dir`.
        scores: Of a reranker, scores of `rabtriever judge` to read beside its own; what they lack is computed.

    Raises:
        InputError: a file of the cache is broken.
    """

    def __init__(
        self, model: Encoder | Reranker, folder: str | Path | None = None, scores: ScoreStore | None = None
    ) -> None:
        root = Path(folder or cache_dir() / "states")
        self.model, self.folder = model, root / folder_name(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._own = VectorFolder(self.folder)
        self._folders = [self._own, *(scores.read(model, root) if scores else ())]

    def states(self, kind: Kind, texts: Sequence[str]) -> Tensor:
        """Returns an encoder's states of queries or documents, float32 (n, H)."""
        encoder = cast(Encoder, self.model)
        encode = encoder.encode_queries if kind == "query" else encoder.encode_documents
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        keys, label = [text_key(kind, text) for text in texts], f"{encoder.describe()['name']}: {kind} states"

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
        keys = [pair_key(queries[q], documents[d]) for q, d in pairs.tolist()]

        def compute(rows: list[int]) -> np.ndarray:
            shown = {"with_states": reranker.has_states, "show_progress_bar": is_shown()}
            scores = reranker.score(queries, documents, pairs[rows].numpy(), **shown)
            log_odds = scores.log_odds[:, None]
            return log_odds if scores.states is None else np.concatenate([log_odds, scores.states], axis=1)

        side = pairs[:, int(reranker.group_by == "document")]  # pairs that share work side by side
        order = side.argsort(stable=True).tolist()
        vectors, n_new = self._fetch(keys, order, compute, "teacher calls", side.tolist())
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
            return list({keys[i]: i for i in order if not any(keys[i] in one for one in self._folders)}.values())

        def make(missing: list[int]) -> list[str]:
            made = []
            with bar(len(missing), label) as shown:
                for start in range(0, len(missing), VECTORS_PER_SHARD):
                    rows = missing[start : start + VECTORS_PER_SHARD]
                    made.append(self._own.write([keys[i] for i in rows], compute(rows)))
                    shown.update(len(rows))
            return made

        missing = processes.agree(absent())
        own = self._share(missing, groups)
        made = processes.together(lambda: make(own))
        processes.together(lambda: self._find(chain(*made[: processes.rank()], *made[processes.rank() + 1 :])))
        make(absent())  # what a process asks for alone, since it rounded otherwise than the first
        result = np.empty((len(keys), 0), np.float32)
        holders = [next(one for one in self._folders if key in one) for key in keys]
        for folder in self._folders:
            positions = [i for i, holder in enumerate(holders) if holder is folder]
            vectors = folder.read([keys[i] for i in positions])
            if not result.shape[1]:
                result = np.empty((len(keys), vectors.shape[1]), np.float32)
            if positions:
                result[positions] = vectors
        return torch.from_numpy(result), len(missing)

    def _share(self, missing: list[int], groups: Sequence[int]) -> list[int]:
        """Returns what this process computes; of a remote model, which has one budget, the first computes all."""
        if isinstance(self.model, RemoteReranker):
            return [] if processes.rank() else missing
        return _divide(missing, groups, processes.count())[processes.rank()]

    def _find(self, names: Iterable[str]) -> None:
        """Adds shards that other processes have written."""
        for name in names:
            processes.require_shared(self.folder / name)
            self._own.add(name)


def _divide(missing: list[int], groups: Sequence[int], n: int) -> list[list[int]]:
    """Divides positions into n shares of about the same length; those of one group stay together, in their order."""
    by_group: dict[int, list[int]] = defaultdict(list)
    for i in missing:
        by_group[groups[i]].append(i)
    shares: list[list[int]] = [[] for _ in range(n)]
    for members in by_group.values():
        min(shares, key=len).extend(members)
    return shares
