"""What the teacher says of train queries: lists over all documents from encoders, corrected where a reranker read."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rabtriever.training.cached_teacher import Similarities

TOP_DOCUMENTS = 16  # of each query's teacher that a step over very many documents holds
MAX_CANDIDATES = 1024  # documents of a step
MAX_QUERIES, QUERIES_PER_BLOCK = 4096, 256  # that say which documents are asked for
LEAST_SHARE = 1 / 3  # of the mean probability: on four corpora it divides documents with and without requests


@dataclass
class Targets:
    """The teacher's outputs so far.

    Attributes:
        similarities: Of each encoder that teaches, its weight and its states of queries (n, H) and documents (k, H).
        pairs: int64 (p, 2) of (query, document) that rerankers read, ordered as they came.
        log_odds: float32 (p,), the rerankers' weighted sum.
        states: float32 (p, H), z* of the pairs; (p, 0) if no reranker has any.
    """

    similarities: Similarities
    pairs: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.long))
    log_odds: Tensor = field(default_factory=lambda: torch.empty(0))
    states: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def add(self, pairs: Tensor, log_odds: Tensor, states: Tensor) -> None:
        """Adds pairs that were read."""
        self.pairs, self.log_odds = torch.cat([self.pairs, pairs]), torch.cat([self.log_odds, log_odds])
        self.states = torch.cat([self.states, states]) if len(self.states) else states

    def similarity(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Returns the weighted sum of the encoders' similarities, float32 (n, k); zeros without an encoder."""
        result = torch.zeros(len(queries), len(documents))
        for weight, q, d in self.similarities:
            result += weight * (q[queries] @ d[documents].T)
        return result

    def lists(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Returns the teacher's log-odds of queries int64 (n,) and documents int64 (k,) ascending: float32 (n, k).

        Where rerankers read a query's documents, their log-odds are added; the others get the least of them: a reranker
        reads the best, so what it did not read is no better.
        """
        result = self.similarity(queries, documents)
        rows, found = (queries[:, None] == self.pairs[:, 0]).nonzero().T
        if not len(rows):
            return result
        read = self.log_odds[found]
        least = read.new_full((len(queries),), torch.inf).scatter_reduce(0, rows, read, "amin")
        added = torch.where(least.isinf(), 0.0, least)[:, None].repeat(1, len(documents))
        columns = torch.searchsorted(documents, self.pairs[found, 1]).clamp_max(len(documents) - 1)
        there = documents[columns] == self.pairs[found, 1]
        added[rows[there], columns[there]] = read[there]
        return result + added

    def asked_for(self, queries: Tensor, n_documents: int) -> Tensor:
        """Returns the documents that the encoders give a third of the mean probability or more: bool (k,).

        Those that hardly any of the queries int64 (n,) asks for are not taught, only pushed down.
        """
        documents, mass = torch.arange(n_documents), torch.zeros(n_documents)
        asking = queries if self.similarities else queries[:0]
        rows = torch.linspace(0, len(asking) - 1, min(len(asking), MAX_QUERIES)).long()
        for block in asking[rows].split(QUERIES_PER_BLOCK):
            mass += self.similarity(block, documents).softmax(1).sum(0)
        return mass >= max(1e-6, LEAST_SHARE * float(mass.mean()))

    def candidates(self, queries: Tensor, n_documents: int, generator: torch.Generator) -> Tensor:
        """Returns a step's documents, int64 ascending: all, or the queries' best and a sample of the rest."""
        if n_documents <= MAX_CANDIDATES:
            return torch.arange(n_documents)
        best = self.similarity(queries, torch.arange(n_documents)).topk(TOP_DOCUMENTS, dim=1).indices.flatten()
        read = self.pairs[torch.isin(self.pairs[:, 0], queries), 1]
        sampled = torch.randperm(n_documents, generator=generator)[:MAX_CANDIDATES]
        first = torch.cat([best, read]).unique()
        return torch.cat([first, sampled])[: max(MAX_CANDIDATES, len(first))].unique()
