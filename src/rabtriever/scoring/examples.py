"""Labelled queries that a retriever remembers: a query moves towards the documents of those that are nearest to it.

With the unit embeddings e_q of a query, e_i of the remembered ones, d_i their documents, u_i = exp(SHARPNESS (<e_q,
e_i> - 1)), and u the greatest u_i of those that are not among the nearest, a document d gets the votes a_d, the sum of
c_i (u_i - u) over the nearest i with d_i = d, where c_i is 1, or below 0 if d_i was wrong for i; and

    shift(q) = weight * sum_d sign(a_d) log(1 + SCALE |a_d|) v_d;    log-odds(q, d) gain <shift(q), e_d>

v_d is the ridge regression's answer to ``<v_d, e_j> = 1 for j = d, 0 for other labelled documents``, so that a document
without labels gets what its neighbours among the labelled ones suggest. Documents that the predictor was not trained on
get a share of the most that any labelled one gains, too: few examples speak for them. All of it is done to the
query: documents, index and scan know nothing of it, and an example that is added counts at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np

NEAREST, SHARPNESS, SCALE = 32, 12.0, 100.0
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)
WEIGHTS = (0.5, 1.0, 2.0, 4.0, 8.0)
SHARES = (0.0, 0.5, 0.75, 1.0, 1.25)
BLOCK = 512  # queries whose similarities to all examples are in memory at a time


@dataclass(frozen=True, eq=False)
class Examples:
    """Remembered queries and the documents that they are labelled with.

    Attributes:
        queries: float32 (n, H), unit embeddings, rounded to float16.
        documents: int32 (n,), rows of ``keys`` and ``embeddings``.
        counts: float32 (n,), c_i.
        keys: int64 (m,), :func:`rabtriever.scoring.fusion.text_keys` of the labelled documents.
        embeddings: float32 (m, H), theirs, rounded to float16.
        ridge: Strength of the regression's penalty; the greater, the more similar documents share.
        weight: Of the shift.
        share: Of the most that a labelled document gains, for documents that the predictor was not trained on.
    """

    queries: np.ndarray
    documents: np.ndarray
    counts: np.ndarray
    keys: np.ndarray
    embeddings: np.ndarray
    ridge: float = 1.0
    weight: float = 1.0
    share: float = 0.0

    @classmethod
    def of(
        cls, queries: np.ndarray, positives: Sequence[Sequence[int]], keys: np.ndarray, embeddings: np.ndarray
    ) -> Examples:
        """Makes examples of labelled queries.

        Args:
            queries: float32 (n, H), their embeddings.
            positives: Rows of ``embeddings`` that are right for each.
            keys: int64 (k,), of the documents.
            embeddings: float32 (k, H), of the documents.
        """
        pairs = [(row, document) for row, of_query in enumerate(positives) for document in of_query]
        rows, of_row = np.array(pairs, np.int64).reshape(-1, 2).T
        labelled, position = np.unique(of_row, return_inverse=True)
        counts = np.ones(len(rows), np.float32)
        named = keys[labelled], _rounded(embeddings[labelled])
        return cls(_rounded(unit(queries[rows])), position.astype(np.int32), counts, *named)

    def __len__(self) -> int:
        """Returns the number of examples: pairs of a query and a document."""
        return len(self.queries)

    def with_strength(self, ridge: float, weight: float, share: float = 0.0) -> Examples:
        """Returns the same examples with another ridge, weight and share."""
        return replace(self, ridge=ridge, weight=weight, share=share)

    def advantage(self, shift: np.ndarray) -> np.ndarray:
        """Returns what documents get that the predictor was not trained on, float32 (n,), of shifts (n, H)."""
        most = (shift @ self.embeddings.T).max(axis=1, initial=0.0)
        return cast(np.ndarray, np.float32(self.share) * most)

    def joined(self, others: Examples) -> Examples:
        """Returns these examples and others after them; ridge, weight and share stay."""
        keys, first, rows = np.unique(np.concatenate([self.keys, others.keys]), return_index=True, return_inverse=True)
        both = rows[: len(self.keys)][self.documents], rows[len(self.keys) :][others.documents]
        return replace(
            self,
            queries=np.concatenate([self.queries, others.queries]),
            documents=np.concatenate(both).astype(np.int32),
            counts=np.concatenate([self.counts, others.counts]),
            keys=keys,
            embeddings=np.concatenate([self.embeddings, others.embeddings])[first],
        )

    def select(self, rows: np.ndarray) -> Examples:
        """Returns the examples at some rows; all documents stay."""
        given = {name: getattr(self, name)[rows] for name in ("queries", "documents", "counts")}
        return replace(self, **given)

    @cached_property
    def values(self) -> np.ndarray:
        """v_d of the labelled documents, float32 (m, H)."""
        return ridge_answers(self.embeddings, self.ridge)

    def votes(self, states: np.ndarray, earlier: np.ndarray | None = None) -> np.ndarray:
        """Returns ``sign(a_d) log(1 + SCALE |a_d|)`` of queries and labelled documents, float32 (n, m).

        Args:
            states: float32 (n, H), embeddings of queries.
            earlier: int64 (n,), how many of the first examples may vote for each; all if None.
        """
        similarities = unit(states) @ self.queries.T
        if earlier is not None:
            similarities[np.arange(len(self)) >= earlier[:, None]] = -np.inf
        found = np.argpartition(-similarities, min(NEAREST, len(self) - 1), axis=1)[:, : NEAREST + 1]
        near = np.exp(SHARPNESS * (np.take_along_axis(similarities, found, 1) - 1))
        if len(self) > NEAREST:
            near -= near[:, -1:]  # so that it does not matter which of two equals is left out
        sums = np.zeros((len(states), len(self.keys)), np.float32)
        np.add.at(sums, (np.arange(len(states))[:, None], self.documents[found]), near * self.counts[found])
        result: np.ndarray = np.sign(sums) * np.log1p(SCALE * np.abs(sums))
        return result

    def shift(self, states: np.ndarray) -> np.ndarray:
        """Returns what is added to queries, float32 (n, H), of their embeddings float32 (n, H)."""
        blocks = [states[start : start + BLOCK] for start in range(0, len(states), BLOCK)]
        shifts = [self.weight * (self.votes(block) @ self.values) for block in blocks]
        return np.concatenate([np.empty((0, states.shape[1]), np.float32), *shifts])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns what :meth:`from_arrays` reads, for a file."""
        halves = {name: getattr(self, name).astype(np.float16) for name in ("queries", "embeddings")}
        whole = {name: getattr(self, name) for name in ("documents", "counts", "keys")}
        return {**halves, **whole, "strength": np.array([self.ridge, self.weight, self.share], np.float32)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Examples:
        """Returns what :meth:`to_arrays` described."""
        halves = {name: arrays[name].astype(np.float32) for name in ("queries", "embeddings")}
        whole = {name: arrays[name] for name in ("documents", "counts", "keys")}
        ridge, weight, share = arrays["strength"].tolist()
        return cls(**halves, **whole, ridge=ridge, weight=weight, share=share)


def ridge_answers(embeddings: np.ndarray, ridge: float) -> np.ndarray:
    """Returns the v_d of documents, float32 (m, H), of their embeddings float32 (m, H)."""
    e = embeddings.astype(np.float64)
    solved = np.linalg.solve(e.T @ e + ridge * np.eye(e.shape[1]), e.T)
    return np.ascontiguousarray(solved.T, np.float32)


def unit(states: np.ndarray) -> np.ndarray:
    """Returns states (n, H) of length one, float32; those of zeros stay zeros."""
    states = states.astype(np.float32)
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    return cast(np.ndarray, states / np.maximum(lengths, 1e-12))


def _rounded(states: np.ndarray) -> np.ndarray:
    """Returns the states as they will be read from a file."""
    return states.astype(np.float16).astype(np.float32)
