"""Scores of rerankers at a folder or in object storage: what `rabtriever judge --out` writes and a distillation reads.

A folder for each reranker and kind of arithmetic, as in the teachers' cache: ``reranker.json`` says whose it is, files
of vectors (:mod:`rabtriever.persistence.vectors`) hold log-odds, behind them the context embeddings if it has any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rabtriever.caching import cache_dir
from rabtriever.errors import InputError
from rabtriever.persistence.files import Folder
from rabtriever.persistence.vectors import VectorFolder, text_key
from rabtriever.rerankers.base import PairScorer, Reranker, Scores
from rabtriever.scoring.calibration import Calibration

IDENTITY = "reranker.json"
NO_SCORE = -100.0  # log-odds of a pair that has no score: surely not relevant, and still a number


class Model(Protocol):
    """What names a folder of outputs."""

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the outputs: weights, prompt."""

    @property
    def numerics(self) -> str:
        """The arithmetic, in which they are rounded."""


class ScoreStore:
    """Scores of rerankers.

    Scores of the same weights and prompt count as the same, whatever computed them: who names a store wants its scores.

    Args:
        uri: Folder or URI (:class:`rabtriever.persistence.files.Folder`); nothing need be there.
    """

    def __init__(self, uri: str | Path) -> None:
        self.folder = Folder(uri)

    def prepare(self, reranker: Reranker) -> str:
        """Returns the URI of a reranker's scores, after it has been marked as its; raises StorageError."""
        name = folder_name(reranker)
        if not self.folder.exists(f"{name}/{IDENTITY}"):
            identity = {"fingerprint": reranker.fingerprint, "numerics": reranker.numerics, **reranker.describe()}
            self.folder.write(f"{name}/{IDENTITY}", json.dumps(identity).encode())
        return f"{self.folder.uri}/{name}"

    def folders(self, fingerprint: str) -> list[str]:
        """Returns the names of the folders of a reranker's scores; raises InputError for one that is broken."""
        found = []
        for name in self.folder.names():
            identity = self.folder.read(f"{name}/{IDENTITY}")
            if identity is None:
                continue
            try:
                if json.loads(identity)["fingerprint"] == fingerprint:
                    found.append(name)
            except (ValueError, KeyError, TypeError):
                uri = f"{self.folder.uri}/{name}/{IDENTITY}"
                raise InputError(f"{uri}: says not whose scores these are; delete the folder") from None
        return found

    def read(self, model: Model, mirrors: Path | None = None) -> list[VectorFolder]:
        """Opens the scores of a reranker, those of its own arithmetic first.

        Files of object storage are copied to a folder of the same name in ``mirrors``, by default the teachers' cache.
        """
        own, mirrors = folder_name(model), mirrors or cache_dir() / "states"
        found = sorted(self.folders(model.fingerprint), key=lambda name: name != own)
        return [VectorFolder(f"{self.folder.uri}/{name}", mirrors / name) for name in found]


class StoredReranker(PairScorer):
    """A reranker whose scores were computed before, in place of the model itself.

    Args:
        fingerprint: The model's.
        calibration: The model's.
        folders: Its scores (:meth:`ScoreStore.read`); a pair without one counts as surely not relevant.
        costs: What its scores cost, for a report: ``choice_mass``, ``ms_per_pair``, ``cost_per_pair``.
    """

    def __init__(
        self,
        fingerprint: str,
        calibration: Calibration,
        folders: Sequence[VectorFolder],
        costs: Mapping[str, float | None],
    ) -> None:
        self.fingerprint, self.calibration, self.folders, self.costs = fingerprint, calibration, folders, costs

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: np.ndarray,
        *,
        with_states: bool = False,
        show_progress_bar: bool = False,
    ) -> Scores:
        """Returns the log-odds of pairs (see :meth:`Reranker.score`)."""
        keys = [pair_key(queries[q], documents[d]) for q, d in np.asarray(pairs).reshape(-1, 2).tolist()]
        log_odds = np.full(len(keys), NO_SCORE, np.float32)
        for folder in reversed(self.folders):
            if known := [i for i, key in enumerate(keys) if key in folder]:
                log_odds[known] = folder.read([keys[i] for i in known])[:, 0]
        return Scores(log_odds)


def folder_name(model: Model) -> str:
    """Returns the name of the folder of a model's outputs: a hash of everything that changes their numbers."""
    return text_key(model.fingerprint, model.numerics).hex()


def pair_key(query: str, document: str) -> bytes:
    """Returns the key of a pair's score."""
    return text_key("pair", query, document)
