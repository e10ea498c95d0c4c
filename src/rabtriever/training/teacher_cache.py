"""Outputs of frozen models on disk: a pair is scored once, a text encoded once, however often a training is run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from rabtriever.caching import cache_dir
from rabtriever.encoders.base import Encoder, Kind
from rabtriever.persistence.vectors import VECTORS_PER_FILE, VectorFolder, text_key
from rabtriever.progress import bar, is_shown
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.remote.reranker import RemoteReranker
from rabtriever.rerankers.store import ScoreStore, folder_name, pair_key
from rabtriever.training import processes

Item: TypeAlias = tuple[int, ...]  # the position of a text, or those of a pair: the same in every process


@dataclass(frozen=True)
class _Work:
    """What is computed of items.

    Attributes:
        key: Names an item's vector.
        group: Items of one are computed in one process.
        compute: Returns the vectors float32 (n, width) of n items.
        label: Of the progress bar.
    """

    key: Callable[[Item], bytes]
    group: Callable[[Item], int]
    compute: Callable[[list[Item]], np.ndarray]
    label: str


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

        def compute(items: list[Item]) -> np.ndarray:
            return encode([texts[i] for (i,) in items], None, is_shown())

        items: list[Item] = [(i,) for i in range(len(texts))]
        work = _Work(
            key=lambda item: text_key(kind, texts[item[0]]),
            group=lambda item: item[0],
            compute=compute,
            label=f"{encoder.describe()['name']}: {kind} states",
        )
        vectors, _ = self._fetch(items, sorted(items, key=lambda item: len(texts[item[0]])), work)
        return vectors.reshape(len(texts), encoder.hidden_size)

    def scores(self, queries: Sequence[str], documents: Sequence[str], pairs: Tensor) -> tuple[Tensor, Tensor, int]:
        """Scores pairs int64 (n, 2) of positions by a reranker.

        Returns:
            Log-odds float32 (n,); context embeddings z*(q, d) float32 (n, H), or (n, 0) of a reranker without them; how
            many pairs were not cached.
        """
        reranker = cast(Reranker, self.model)

        def compute(items: list[Item]) -> np.ndarray:
            shown = {"with_states": reranker.has_states, "show_progress_bar": is_shown()}
            scores = reranker.score(queries, documents, np.array(items, np.int64), **shown)
            log_odds = scores.log_odds[:, None]
            return log_odds if scores.states is None else np.concatenate([log_odds, scores.states], axis=1)

        side = int(reranker.group_by == "document")
        items: list[Item] = [(q, d) for q, d in pairs.tolist()]
        work = _Work(
            key=lambda item: pair_key(queries[item[0]], documents[item[1]]),
            group=lambda item: item[side],
            compute=compute,
            label="teacher calls",
        )
        vectors, n_new = self._fetch(items, sorted(items, key=work.group), work)  # what shares work side by side
        return vectors[:, 0], vectors[:, 1:], n_new

    def _fetch(self, items: Sequence[Item], order: Sequence[Item], work: _Work) -> tuple[Tensor, int]:
        """Returns the vectors of ``items``, and how many were not cached: they are computed in ``order`` and stored.

        Processes divide the first one's items; then those that another asks for alone, since it rounded otherwise.
        """

        def absent() -> list[Item]:
            missing = {key: item for item in order if not self._holder(key := work.key(item))}
            return list(missing.values())

        def make(missing: list[Item]) -> int:
            own = self._share(missing, work.group)
            made = processes.together(lambda: self._make(own, work))
            processes.together(lambda: self._find(chain(*made[: processes.rank()], *made[processes.rank() + 1 :])))
            return len(missing)

        n_new = make(processes.agree(absent()))
        left = {work.key(item): item for item in chain(*processes.together(absent))}
        n_new += make(list(left.values())) if left else 0
        result = np.empty((len(items), 0), np.float32)
        keys = [work.key(item) for item in items]
        holders = [self._holder(key) for key in keys]
        for folder in self._folders:
            positions = [i for i, holder in enumerate(holders) if holder is folder]
            vectors = folder.read([keys[i] for i in positions])
            if not result.shape[1]:
                result = np.empty((len(keys), vectors.shape[1]), np.float32)
            if positions:
                result[positions] = vectors
        return torch.from_numpy(result), n_new

    def _holder(self, key: bytes) -> VectorFolder | None:
        return next((folder for folder in self._folders if key in folder), None)

    def _make(self, items: list[Item], work: _Work) -> list[str]:
        """Computes vectors and stores them; returns the names of the files."""
        made = []
        with bar(len(items), work.label) as shown:
            for start in range(0, len(items), VECTORS_PER_FILE):
                some = items[start : start + VECTORS_PER_FILE]
                made.append(self._own.write([work.key(item) for item in some], work.compute(some)))
                shown.update(len(some))
        return made

    def _share(self, missing: list[Item], group: Callable[[Item], int]) -> list[Item]:
        """Returns what this process computes; of a remote model, which has one budget, the first computes all."""
        if isinstance(self.model, RemoteReranker):
            return [] if processes.rank() else missing
        return _divide(missing, group, processes.count())[processes.rank()]

    def _find(self, names: Iterable[str]) -> None:
        """Adds files that other processes have written."""
        for name in names:
            processes.require_shared(self.folder / name)
            self._own.add(name)


def _divide(items: list[Item], group: Callable[[Item], int], n: int) -> list[list[Item]]:
    """Divides items into n shares of about the same length; those of one group stay together, in their order."""
    by_group: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        by_group[group(item)].append(item)
    shares: list[list[Item]] = [[] for _ in range(n)]
    for members in by_group.values():
        min(shares, key=len).extend(members)
    return shares
