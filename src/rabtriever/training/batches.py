"""The batches of a reranker's training: documents that are easily mistaken for each other, and their queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from random import Random

import torch
from torch import Tensor

from rabtriever.data import RetrievalData
from rabtriever.training.config import RerankerTrainingConfig


@dataclass(frozen=True)
class TrainingBatch:
    """Queries and documents of one step.

    Attributes:
        queries: n texts.
        documents: k texts; each query's relevant document is among them, the others are its negatives.
        positive: bool (n, k), whether the document is relevant to the query.
        scored: bool (n, k), the pairs that the LLM scores: all positive ones and some negatives.
        own: bool (n, k), whether the document is the query itself (:meth:`RetrievalData.is_own_document`): neither
            relevant nor a negative.
        query_weight: What a mean over these queries counts: 1 unless they are a process's share.
        pair_weight: The same of a mean over the scored pairs.
    """

    queries: list[str]
    documents: list[str]
    positive: Tensor
    scored: Tensor
    own: Tensor
    query_weight: float = 1.0
    pair_weight: float = 1.0

    def share(self, rank: int, processes: int, all_documents: bool) -> TrainingBatch:
        """Returns the queries of one process, weighted so that the mean of all processes' losses is the whole batch's.

        A process without any takes the first query, which then counts nothing.

        Args:
            rank: The process.
            processes: How many there are.
            all_documents: Whether to keep documents that none of these queries is scored with.
        """
        if processes == 1:
            return self
        rows = torch.arange(len(self.queries))[rank::processes]
        query_weight = processes * len(rows) / len(self.queries)
        pair_weight = processes * float(self.scored[rows].sum() / self.scored.sum())
        rows = rows if len(rows) else torch.zeros(1, dtype=torch.long)
        read = self.scored[rows].any(0) | all_documents
        positive, scored, own = (pairs[rows][:, read] for pairs in (self.positive, self.scored, self.own))
        queries, documents = [self.queries[row] for row in rows.tolist()], list(compress(self.documents, read.tolist()))
        return TrainingBatch(queries, documents, positive, scored, own, query_weight, pair_weight)


class BatchDataset(torch.utils.data.Dataset[TrainingBatch]):
    """A fixed sequence of batches: one seed gives one sequence, so that an interrupted training can resume.

    A document's key/value cache is shared by all queries of the batch, so a pair costs only the query's tokens.

    Args:
        data: Documents, queries and qrels; only the queries of its ``train`` split are used.
        config: Sizes, share of hard negatives, seed.
        hard_negatives: Document id -> ids of the documents that are easily mistaken for it, hardest first.
        processes: How many share the queries of a step. Items then are shares: step 0's by rank, step 1's, ...
    """

    def __init__(
        self,
        data: RetrievalData,
        config: RerankerTrainingConfig,
        hard_negatives: Mapping[str, Sequence[str]],
        processes: int = 1,
    ) -> None:
        self.data, self.config, self.hard_negatives, self.processes = data, config, hard_negatives, processes
        self.n_documents = min(config.documents_per_step, len(data.documents))
        self.positives = data.positives("train")
        self._queries_of: dict[str, list[str]] = defaultdict(list)
        for query, documents in self.positives.items():
            for document in documents:
                self._queries_of[document].append(query)
        self._epoch, self._order = -1, list(self.positives)

    def __len__(self) -> int:
        """Returns the number of steps, times the processes."""
        return self.config.steps * self.processes

    def __getitem__(self, item: int) -> TrainingBatch:
        """Returns the batch of one step and process."""
        step, rank = divmod(item, self.processes)
        return self._batch(step).share(rank, self.processes, all_documents=self.config.student_weight > 0)

    def _batch(self, step: int) -> TrainingBatch:
        random = Random(f"{self.config.seed}/{step}")
        documents, queries = self._choose(step, random)
        positive = torch.tensor([[document in self.positives[query] for document in documents] for query in queries])
        own = torch.tensor([[self.data.is_own_document(query, d) for d in documents] for query in queries])
        scored = positive.clone()
        for query, row in zip(queries, scored, strict=True):
            row[self._negatives(query, documents, random)] = True
        texts = [self.data.queries[query] for query in queries]
        return TrainingBatch(texts, [self.data.documents[d].content for d in documents], positive, scored, own)

    def _choose(self, step: int, random: Random) -> tuple[list[str], list[str]]:
        """Returns the ids of a step's documents and queries.

        The documents are one of the query whose turn it is, hard negatives of it, and documents of the queries that
        follow in this epoch's order; more queries of these documents join, up to ``queries_per_step``.
        """
        epoch, position = divmod(step * self.n_documents, len(self.positives))
        order = self._order_of(epoch)
        first_query, *others = order[position:] + order[:position]
        first = random.choice(self.positives[first_query])
        hard = [d for d in self.hard_negatives.get(first, ()) if not self.data.is_own_document(first_query, d)]
        hard = hard[: 3 * self.n_documents]
        n_hard = min(len(hard), round(self.config.hard_negative_share * (self.n_documents - 1)))
        documents, queries = dict.fromkeys([first, *random.sample(hard, n_hard)]), {first_query: None}
        for query in others:
            if len(documents) == self.n_documents:
                break
            document = random.choice(self.positives[query])
            if document not in documents:
                documents[document], queries[query] = None, None
        if len(documents) < self.n_documents:
            rest = [document for document in self.data.documents if document not in documents]
            documents |= dict.fromkeys(random.sample(rest, self.n_documents - len(documents)))
        more = sorted({query for document in documents for query in self._queries_of[document]} - queries.keys())
        n_more = min(len(more), max(0, self.config.queries_per_step - len(queries)))
        return sorted(documents), sorted([*queries, *random.sample(more, n_more)])

    def _order_of(self, epoch: int) -> list[str]:
        """Returns the queries in an epoch's order, shuffled once per epoch."""
        if epoch != self._epoch:
            random = Random(f"{self.config.seed}/epoch/{epoch}")
            self._epoch, self._order = epoch, random.sample(list(self.positives), len(self.positives))
        return self._order

    def _negatives(self, query: str, documents: list[str], random: Random) -> list[int]:
        """Returns the positions of a query's negatives: the hardest of the batch, and some at random."""
        relevant = self.positives[query]
        difficulty = {document: rank for rank, document in enumerate(self.hard_negatives.get(relevant[0], ()))}
        others = [
            position
            for position, document in enumerate(documents)
            if document not in relevant and not self.data.is_own_document(query, document)
        ]
        random.shuffle(others)
        others.sort(key=lambda position: difficulty.get(documents[position], len(difficulty)))
        count = min(self.config.negatives, len(others))
        n_hard = round(self.config.hard_negative_share * count)
        return others[:n_hard] + random.sample(others[n_hard:], count - n_hard)
