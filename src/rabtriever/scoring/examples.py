"""Labelled queries that a retriever remembers: a query moves towards the documents of those that are nearest to it.

With the unit embeddings e_q of a query, e_i of the remembered ones, d_i their documents, u_i = exp(SHARPNESS (<e_q,
e_i> - 1)), and u the greatest u_i of those that are not among the nearest, a document d gets the votes a_d, the sum of
u_i - u over the nearest i with d_i = d, and

    shift(q) = weight * sum_d log(1 + SCALE a_d) v_d;    log-odds(q, d) gain <shift(q), e_d>

v_d is the ridge regression's answer to ``<v_d, e_j> = 1 for j = d, 0 for other labelled documents``, so that a document
without labels gets what its neighbours among the labelled ones suggest. All of it is done to the query: documents,
index and scan know nothing of it, and an example that is added counts at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

NEAREST, SHARPNESS, SCALE = 32, 12.0, 100.0
RIDGES = (0.1, 0.3, 1.0, 3.0)
WEIGHTS = (0.5, 1.0, 2.0)
BLOCK = 1024  # queries whose similarities to all examples are in memory at a time


@dataclass(frozen=True, eq=False)
class Examples:
    """Remembered queries and the documents that they are labelled with.

    Attributes:
        queries: float32 (n, H), unit embeddings, rounded to float16.
        documents: int32 (n,), rows of ``values``.
        values: float32 (m, H), v_d of the labelled documents.
        weight: Of the shift.
    """

    queries: np.ndarray
    documents: np.ndarray
    values: np.ndarray
    weight: float = 1.0

    @classmethod
    def fit(
        cls, queries: np.ndarray, positives: Sequence[Sequence[int]], documents: np.ndarray, ridge: float
    ) -> Examples:
        """Makes examples of labelled queries.

        Args:
            queries: float32 (n, H), their embeddings.
            positives: Rows of ``documents`` that are right for each.
            documents: float32 (k, H), embeddings.
            ridge: Strength of the regression's penalty; the greater, the more similar documents share.
        """
        pairs = [(row, document) for row, of_query in enumerate(positives) for document in of_query]
        rows, of_row = np.array(pairs, np.int64).reshape(-1, 2).T
        labelled, position = np.unique(of_row, return_inverse=True)
        e = documents[labelled].astype(np.float64)
        values = np.linalg.solve(e.T @ e + ridge * np.eye(e.shape[1]), e.T).T
        kept = _unit(queries[rows]).astype(np.float16).astype(np.float32)
        return cls(kept, position.astype(np.int32), np.ascontiguousarray(values, np.float32))

    def weighted(self, weight: float) -> Examples:
        """Returns the same examples with another weight."""
        return replace(self, weight=weight)

    def shift(self, states: np.ndarray) -> np.ndarray:
        """Returns what is added to queries, float32 (n, H), of their embeddings float32 (n, H)."""
        result = np.zeros((len(states), self.values.shape[1]), np.float32)
        for start in range(0, len(states), BLOCK):
            similarities = _unit(states[start : start + BLOCK]) @ self.queries.T
            found = np.argpartition(-similarities, min(NEAREST, similarities.shape[1] - 1), axis=1)[:, : NEAREST + 1]
            votes = np.exp(SHARPNESS * (np.take_along_axis(similarities, found, 1) - 1))
            if similarities.shape[1] > NEAREST:
                votes -= votes[:, -1:]  # so that it does not matter which of two equals is left out
            for row, of_row, given in zip(result[start:], self.documents[found], votes, strict=False):
                documents, inverse = np.unique(of_row, return_inverse=True)
                sums = np.bincount(inverse, given, len(documents)).astype(np.float32)
                row[:] = self.weight * (np.log1p(SCALE * sums) @ self.values[documents])
        return result

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns what :meth:`from_arrays` reads, for a file."""
        weight = np.array([self.weight], np.float32)
        return {
            "queries": self.queries.astype(np.float16),
            "documents": self.documents,
            "values": self.values,
            "weight": weight,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Examples:
        """Returns what :meth:`to_arrays` described."""
        weight = float(arrays["weight"][0])
        return cls(arrays["queries"].astype(np.float32), arrays["documents"], arrays["values"], weight)


def choose_examples(positives: Sequence[Sequence[int]], most: int, seed: int) -> list[int]:
    """Returns rows of labelled queries, ascending: at random, while one of their documents has fewer than ``most``."""
    counts: Counter[int] = Counter()
    chosen = []
    for row in Random(seed).sample(range(len(positives)), len(positives)):
        if min((counts[document] for document in positives[row]), default=most) < most:
            counts.update(positives[row])
            chosen.append(row)
    return sorted(chosen)


def _unit(states: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    unit: np.ndarray = states / np.maximum(lengths, 1e-12)
    return unit.astype(np.float32)
