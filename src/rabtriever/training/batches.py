"""What one training step of the reranker reads: a pool of documents that are hard for each other, and their queries."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from rabtriever.data import RetrievalData
from rabtriever.training.config import RerankerTrainingConfig


@dataclass(frozen=True)
class Pool:
    """Queries and documents of one step.

    Attributes:
        queries: Texts.
        documents: Texts; each query's positive is among them, the others are its negatives.
        positive: bool (n_queries, n_documents).
        asked: bool, the same shape: the pairs that are read.
    """

    queries: list[str]
    documents: list[str]
    positive: Tensor
    asked: Tensor


class Pools(torch.utils.data.Dataset[Pool]):
    """A fixed sequence of pools: the same seed gives the same, so an interrupted training goes on where it was.

    A document's key/value cache is shared by all queries of the pool, so a pair costs only the query's tokens.

    Args:
        data: Documents, queries, qrels.
        settings: Sizes, share of hard negatives, seed.
        neighbours: Document id -> ids of the documents it is easily mistaken for, hardest first.
    """

    def __init__(self, data: RetrievalData, settings: RerankerTrainingConfig, neighbours: dict[str, list[str]]) -> None:
        self.data, self.settings, self.neighbours = data, settings, neighbours
        self.size = min(settings.pool, len(data.documents))
        self.positives = data.positives("train")
        self.queries = list(self.positives)
        self.asked: dict[str, list[str]] = defaultdict(list)
        for query, documents in self.positives.items():
            for document in documents:
                self.asked[document].append(query)

    def __len__(self) -> int:
        """Number of steps."""
        return self.settings.steps

    def __getitem__(self, step: int) -> Pool:
        """The pool of one step."""
        random = Random(f"{self.settings.seed}/{step}")
        documents, queries = self._choose(step, random)
        positive = torch.tensor([[document in self.positives[query] for document in documents] for query in queries])
        asked = positive.clone()
        for query, row in zip(queries, asked, strict=True):
            row[self._negatives(query, documents, random)] = True
        return Pool(
            [self.data.queries[query] for query in queries],
            [self.data.documents[document].content for document in documents],
            positive,
            asked,
        )

    def _negatives(self, query: str, documents: list[str], random: Random) -> list[int]:
        """Positions of the documents that a query reads besides its own: the pool's hardest, and some at random."""
        right = self.positives[query]
        near = {document: rank for rank, document in enumerate(self.neighbours.get(right[0], []))}
        others = [position for position, document in enumerate(documents) if document not in right]
        random.shuffle(others)
        others.sort(key=lambda position: near.get(documents[position], len(near)))
        count = min(self.settings.negatives, len(others))
        hardest = round(self.settings.hard * count)
        return others[:hardest] + random.sample(others[hardest:], count - hardest)

    def _choose(self, step: int, random: Random) -> tuple[list[str], list[str]]:
        """A query in turn with its document, its document's neighbours, other queries' documents; and their queries."""
        settings = self.settings
        epoch, place = divmod(step * self.size, len(self.queries))
        order = Random(f"{settings.seed}/epoch/{epoch}").sample(self.queries, len(self.queries))
        first = random.choice(self.positives[order[place]])
        near = self.neighbours.get(first, [])[: 3 * self.size]
        documents = dict.fromkeys([first, *random.sample(near, min(len(near), round(settings.hard * (self.size - 1))))])
        queries = {order[place]: None}
        for query in order[place + 1 :] + order[:place]:
            if len(documents) == self.size:
                break
            document = random.choice(self.positives[query])
            if document not in documents:
                documents[document], queries[query] = None, None
        rest = [d for d in self.data.documents if d not in documents] if len(documents) < self.size else []
        documents |= dict.fromkeys(random.sample(rest, self.size - len(documents)))
        more = sorted({query for document in documents for query in self.asked[document]} - queries.keys())
        queries |= dict.fromkeys(random.sample(more, min(len(more), max(0, settings.queries - len(queries)))))
        return sorted(documents), sorted(queries)
