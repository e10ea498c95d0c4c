"""The teacher behind its caches, over one corpus."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import cast

import numpy as np
import torch
from torch import Tensor

from rabtriever.encoders.base import Kind
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.rerankers.store import ScoreStore
from rabtriever.scoring.calibration import Calibration
from rabtriever.training.teacher import Teacher
from rabtriever.training.teacher_cache import TeacherCache

Similarities = list[tuple[float, Tensor, Tensor]]
"""Of each encoder: its weight, its states of queries (n, H) and of documents (k, H)."""


class CachedTeacher:
    """Scores a corpus; what was scored before comes from disk.

    Args:
        teacher: Encoders and rerankers; another one of the same models, with other weights, may replace it.
        documents: Texts of the corpus.
        scores: Scores of `rabtriever judge`, which no reranker is asked for again.

    Attributes:
        calls: Pairs that a reranker was asked for, cached ones among them.
        new_calls: Pairs that were not cached.
    """

    def __init__(self, teacher: Teacher, documents: Sequence[str], scores: ScoreStore | None = None) -> None:
        self.teacher, self.documents = teacher, documents
        self._encoders = [TeacherCache(encoder) for encoder, _ in teacher.encoders]
        self._rerankers = [TeacherCache(reranker, scores=scores) for reranker, _ in teacher.rerankers]
        self.calls = self.new_calls = 0

    def similarities(self, queries: Sequence[str]) -> Similarities:
        """Returns the encoders' states of queries and of all documents."""

        def states(kind: Kind, texts: Sequence[str]) -> list[Tensor]:
            return [cache.states(kind, texts) for cache in self._encoders]

        of_both = zip(self.teacher.encoders, states("query", queries), states("document", self.documents), strict=True)
        return [(weight, q, d) for (_, weight), q, d in of_both]

    def read(self, queries: Sequence[str], pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Lets all rerankers read pairs int64 (n, 2) of positions.

        Returns:
            Weighted sum of their log-odds, float32 (n,); z* of the one that has context embeddings, float32 (n, H), or
            (n, 0).
        """
        log_odds, states = torch.zeros(len(pairs)), torch.empty(len(pairs), 0)
        for (scores, found), (_, weight) in zip(self._scores(queries, pairs), self.teacher.rerankers, strict=True):
            log_odds = log_odds + weight * scores
            states = states if states.shape[1] else found
        return log_odds, states

    def read_each(self, queries: Sequence[str], pairs: Tensor) -> list[Tensor]:
        """Lets all rerankers read pairs int64 (n, 2) of positions; returns the log-odds float32 (n,) of each."""
        return [log_odds for log_odds, _ in self._scores(queries, pairs)]

    def _scores(self, queries: Sequence[str], pairs: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = [cache.scores(queries, self.documents, pairs) for cache in self._rerankers]
        self.calls += len(pairs)
        self.new_calls += sum(n_new for _, _, n_new in found)
        return [(log_odds, states) for log_odds, states, _ in found]

    @property
    def calibration(self) -> Calibration:
        """The first reranker's; the identity without one."""
        return self.teacher.rerankers[0][0].calibration if self.teacher.rerankers else Calibration()

    def calibrated_reranker(
        self, queries: Sequence[str], pairs: Tensor, labels: np.ndarray
    ) -> tuple[Reranker | None, Tensor]:
        """Returns a copy of the first reranker, calibrated on labelled pairs int64 (n, 2), and their log-odds (n,).

        None and no log-odds without a reranker.
        """
        if not self._rerankers:
            return None, torch.empty(0)
        cache = self._rerankers[0]
        reranker = copy(cast(Reranker, cache.model))
        if not len(pairs):
            return reranker, torch.empty(0)
        log_odds, _, n_new = cache.scores(queries, self.documents, pairs)
        reranker.calibration = Calibration.fit(log_odds.numpy(), labels, reranker.calibration)
        self.calls, self.new_calls = self.calls + len(pairs), self.new_calls + n_new
        return reranker, log_odds

    def choice_direction(self, extra: bool) -> Tensor:
        """Returns what maps z^ to log-odds, float32: weight (w_yes - w_no) of the reranker that has context embeddings.

        With ``extra``, or without such a reranker, one more number of z^ counts once: what the others add.
        """
        models = ((one, weight) for one, weight in self.teacher.rerankers if isinstance(one, GenerativeReranker))
        parts = [weight * one.llm.choice_direction.cpu() for one, weight in models][:1]
        return torch.cat([*parts, torch.ones(1)] if extra or not parts else parts)
