"""A reranker on many workers, which score blocks of pairs into one store."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from rabtriever.cluster.account import SharedAccount
from rabtriever.cluster.running import Workers, run_tasks, run_workers
from rabtriever.evaluation.score_pairs import Probe, probe_reranker
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.blocks import Outcome, score_block
from rabtriever.rerankers.remote.options import RemoteOptions
from rabtriever.rerankers.remote.reranker import RemoteReranker
from rabtriever.rerankers.remote.source import is_remote
from rabtriever.rerankers.store import ScoreStore
from rabtriever.teachers import load_teacher


class RayScorer:
    """A :class:`~rabtriever.evaluation.score_pairs.Scorer` on the Ray cluster that this process is connected to.

    This process never loads the reranker. The texts of a call lie in Ray's object store, once on each machine.

    Args:
        name: A teacher that reads pairs (:func:`rabtriever.teachers.load_teacher`); a folder must be there on every
            machine, and so must the variable with a server's key.
        options: Of ``load_teacher``. What they say of a server, its cost cap, rate limit and requests in flight, holds
            for all workers together.
        workers: How many, of which size.
    """

    def __init__(self, name: str, options: dict[str, Any], workers: Workers) -> None:
        self.name, self.options, self.workers = name, options, workers
        self._account = SharedAccount(options.get("remote") or RemoteOptions()) if is_remote(name) else None

    def probe(self, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray) -> Probe:
        """See :meth:`Scorer.probe`; a task of a worker's size loads the reranker, unless it is a server."""
        if self._account:
            return _probe(self.name, self.options, (queries, documents, pairs))
        texts = _Texts(pa.array(queries, pa.large_string()), pa.array(documents, pa.large_string())).of(pairs)
        self.workers.capacity()
        (probe,) = run_tasks(partial(_probe, self.name, self.options), [texts], 1, self.workers)
        return probe

    def score(
        self, store: ScoreStore, queries: Sequence[str], documents: Sequence[str], blocks: Sequence[np.ndarray]
    ) -> Iterator[tuple[int, Outcome]]:
        """See :meth:`Scorer.score`; blocks of a worker that is lost are done by the others."""
        import ray

        texts = [ray.put(pa.array(side, pa.large_string())) for side in (queries, documents)]
        pairs, ends = ray.put(np.concatenate(blocks)), np.cumsum([len(block) for block in blocks]).tolist()
        left = {i: (i, end - len(block), end) for i, (block, end) in enumerate(zip(blocks, ends, strict=True))}
        arguments = self.name, self._worker_options(len(blocks)), store.folder.uri, [*texts, pairs], self._account

        def name(_: tuple[int, int, int]) -> str:
            return f"--ray: {len(left)} of {len(blocks)} blocks of pairs"

        todo, place = (lambda: list(left.values())), store.folder.uri
        for row in run_workers(_Judge, arguments, todo, self.workers, name, place):
            del left[row["number"]]
            yield row["number"], Outcome(*json.loads(row["outcome"]))

    def cost(self) -> float | None:
        """See :meth:`Scorer.cost`."""
        return self._account.totals().cost if self._account else None

    def _worker_options(self, n_blocks: int) -> dict[str, Any]:
        """Returns the options with each worker's share of the threads that wait for answers."""
        if not self._account:
            return self.options
        remote = self.options.get("remote") or RemoteOptions()
        threads = math.ceil(remote.concurrency / min(self.workers.capacity(), n_blocks))
        return {**self.options, "remote": replace(remote, concurrency=threads)}


class _Texts(NamedTuple):
    """All queries and documents."""

    queries: pa.LargeStringArray
    documents: pa.LargeStringArray

    def of(self, pairs: np.ndarray) -> tuple[list[str], list[str], np.ndarray]:
        """Returns the queries and documents that occur in pairs (n, 2), and the pairs as positions in these."""
        sides = [np.unique(side, return_inverse=True) for side in pairs.T]
        queries, documents = (all_.take(used).to_pylist() for all_, (used, _) in zip(self, sides, strict=True))
        return queries, documents, np.stack([row_of for _, row_of in sides], axis=1)


class _Judge:
    """A worker with a reranker. After a fault it does nothing more: the job is to end."""

    def __init__(
        self, name: str, options: dict[str, Any], store: str, references: Sequence[Any], account: SharedAccount | None
    ) -> None:
        import ray

        self.fault = ""
        *texts, self.pairs = ray.get(list(references))
        self.texts = _Texts(*texts)
        self.reranker = cast(Reranker, load_teacher(name, **options))
        if isinstance(self.reranker, RemoteReranker):
            self.reranker.use(account)
        self.uri = ScoreStore(store).prepare(self.reranker)

    def __call__(self, block: tuple[int, int, int]) -> dict[str, Any]:
        number, start, end = block
        outcome = Outcome(fault=self.fault)
        if not self.fault:
            outcome = score_block(self.reranker, self.uri, *self.texts.of(self.pairs[start:end]))
            self.fault = outcome.fault
        return {"number": number, "outcome": json.dumps(outcome)}


def _probe(name: str, options: dict[str, Any], few: tuple[Sequence[str], Sequence[str], np.ndarray]) -> Probe:
    return probe_reranker(name, cast(Reranker, load_teacher(name, **options)), *few)
