"""What one training step of the reranker reads: a pool of documents that are hard for each other, and their queries."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from rabtriever.data import RetrievalData
from rabtriever.errors import InputError


@dataclass(frozen=True)
class Pool:
    """Queries and documents of one step; every query is scored against every document.

    Attributes:
        queries: Texts.
        documents: Texts; each query's positive is among them, those of the others are its negatives.
        positive: bool (n_queries, n_documents).
    """

    queries: list[str]
    documents: list[str]
    positive: Tensor


class Pools(torch.utils.data.Dataset[Pool]):
    """A fixed sequence of pools: the same seed gives the same, so an interrupted training goes on where it was.

    A document and its negatives share their key/value caches among all queries of the pool, so a pair costs only the
    query's tokens.

    Args:
        data: Documents, queries, qrels.
        steps: How many pools.
        size: Documents a pool: one positive a query, the others are its negatives.
        hard: Share of a pool that is drawn from its first document's neighbours.
        neighbours: Document id -> ids of the documents it is easily mistaken for, hardest first.
        seed: Of the draw.
    """

    def __init__(
        self, data: RetrievalData, steps: int, size: int, hard: float, neighbours: dict[str, list[str]], seed: int = 0
    ) -> None:
        self.data, self.steps, self.hard, self.neighbours, self.seed = data, steps, hard, neighbours, seed
        self.size = min(size, len(data.documents))
        self.queries = list(data.judged("train"))
        self.positives = {
            query: [document for document, grade in data.qrels["train"][query].items() if grade > 0]
            for query in self.queries
        }
        self.asked: dict[str, list[str]] = defaultdict(list)
        for query, documents in self.positives.items():
            for document in documents:
                self.asked[document].append(query)
        if self.size < 2:
            raise InputError(f"{data.name}: training needs at least two documents, to tell one from the other")

    def __len__(self) -> int:
        """Number of steps."""
        return self.steps

    def __getitem__(self, step: int) -> Pool:
        """The pool of one step."""
        random = Random(f"{self.seed}/{step}")
        epoch, place = divmod(step * self.size, len(self.queries))
        order = Random(f"{self.seed}/epoch/{epoch}").sample(self.queries, len(self.queries))
        first = order[place]
        chosen = {random.choice(self.positives[first]): first}
        near = self.neighbours.get(next(iter(chosen)), [])[: 3 * self.size]
        for document in random.sample(near, min(len(near), round(self.hard * (self.size - 1)))):
            chosen.setdefault(document, random.choice(self.asked[document]) if self.asked[document] else "")
        ahead = iter(order[place + 1 :] + order[:place])
        for query in ahead:
            if len(chosen) == self.size:
                break
            chosen.setdefault(random.choice(self.positives[query]), query)
        rest = (
            [document for document in self.data.documents if document not in chosen] if len(chosen) < self.size else []
        )
        chosen |= dict.fromkeys(random.sample(rest, self.size - len(chosen)), "")
        queries = sorted({query for query in chosen.values() if query})
        documents = sorted(chosen)
        return Pool(
            [self.data.queries[query] for query in queries],
            [self.data.documents[document].content for document in documents],
            torch.tensor([[document in self.positives[query] for document in documents] for query in queries]),
        )
