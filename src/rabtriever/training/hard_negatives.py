"""Hard negatives: the documents that a predictor, trained on the labels alone, mistakes for the relevant one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from rabtriever.data import RetrievalData
from rabtriever.llm.backbone import Backbone
from rabtriever.llm.prompt import Prompt
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.losses import label_loss

MAX_QUERIES = 6000
MAX_DOCUMENTS = 100_000
MAX_NEGATIVES_PER_QUERY = 64  # that count
MAX_NEGATIVES_PER_DOCUMENT = 32  # that are returned
STEPS = 600
QUERIES_PER_STEP = 64


class HardNegatives(NamedTuple):
    """Mined negatives.

    Attributes:
        by_document: Document id -> ids of the documents that are easily mistaken for it, hardest first.
        student: The predictor that found one half of them; None if there are fewer than two labelled queries.
        recall: R@1 of such predictors on queries that they were not trained on; None without a student.
    """

    by_document: dict[str, list[str]]
    student: Predictor | None = None
    recall: float | None = None


class _States(NamedTuple):
    """Encoded texts: states of queries (n, H) and documents (k, H), each query's relevant documents and its own."""

    queries: Tensor
    documents: Tensor
    positives: list[list[int]]
    own_documents: list[int]

    def of_queries(self, rows: list[int]) -> _States:
        """Returns the same for a selection of the queries."""
        positives, own_documents = [self.positives[row] for row in rows], [self.own_documents[row] for row in rows]
        return _States(self.queries[rows], self.documents, positives, own_documents)


def mine_hard_negatives(
    data: RetrievalData,
    backbone: Backbone,
    prompt: Prompt,
    choice_direction: Tensor,
    *,
    seed: int = 0,
    max_queries: int = MAX_QUERIES,
) -> HardNegatives:
    """Finds, for each document of the train queries, the others that rank highest for those queries.

    The LLM encodes queries and documents once; a predictor trained on the labels (minutes on a CPU, no pair is scored
    by the LLM) ranks all documents for each query. Random negatives are solved within a few hundred pairs; these are
    not. A query's own document (:meth:`RetrievalData.is_own_document`) is never a negative of its.

    Args:
        data: Documents, queries, and qrels with a train split, the only one that is used.
        backbone: The LLM as it is before this training.
        prompt: Its prompt.
        choice_direction: float32 (H,), w = w_yes - w_no, on the CPU.
        seed: Of the samples and the predictor.
        max_queries: Most train queries to encode.
    """
    positives = data.positives("train", min(max_queries, MAX_QUERIES), seed)
    if len(positives) < 2:
        return HardNegatives({})
    ids = _candidates(data, positives, seed)
    states = _encode(data, positives, ids, backbone, prompt)
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    n_correct = 0
    for half in (0, 1):  # each half is ranked by what the other half taught: of its own labels a student is too sure
        learned, ranked = (states.of_queries(list(range(start, len(positives), 2))) for start in (half, 1 - half))
        student = fit_predictor(
            learned.queries, learned.documents, learned.positives, choice_direction, STEPS, seed, learned.own_documents
        )
        n_correct += _vote(votes, student, ranked)
    by_document = {
        ids[document]: [ids[i] for i, _ in vote.most_common(MAX_NEGATIVES_PER_DOCUMENT)]
        for document, vote in votes.items()
    }
    return HardNegatives(by_document, student, n_correct / len(positives))


def fit_predictor(
    z_q: Tensor,
    z_d: Tensor,
    positives: Sequence[Sequence[int]],
    choice_direction: Tensor,
    steps: int,
    seed: int,
    own_documents: Sequence[int] | None = None,
) -> Predictor:
    """Trains a predictor on labels alone: its log-odds rank, but are no probabilities.

    Args:
        z_q: float32 (n, H) query states.
        z_d: float32 (k, H) document states.
        positives: Positions of the n queries' relevant documents.
        choice_direction: float32 (H,), w = w_yes - w_no.
        steps: Optimiser steps.
        seed: Of weights, batches and dropout.
        own_documents: See :func:`label_loss`.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    predictor = Predictor(z_q.shape[1], dropout=0.2, choice_direction=choice_direction)
    predictor.fit_normalization("query", z_q)
    predictor.fit_normalization("document", z_d)
    optimiser = torch.optim.AdamW(predictor.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        rows = torch.randint(len(z_q), (QUERIES_PER_STEP,), generator=generator)
        relevant = [positives[row] for row in rows.tolist()]
        own = [own_documents[row] for row in rows.tolist()] if own_documents is not None else None
        loss = label_loss(predictor, z_q[rows], z_d, relevant, generator, own)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return predictor.eval()


def _candidates(data: RetrievalData, positives: dict[str, list[str]], seed: int) -> list[str]:
    """Returns the ids of the documents to encode: all, or of a large corpus the relevant ones and a random sample."""
    if len(data.documents) <= MAX_DOCUMENTS:
        return list(data.documents)
    relevant = dict.fromkeys(document for of_query in positives.values() for document in of_query)
    others = [document for document in data.documents if document not in relevant]
    n_others = min(len(others), max(0, MAX_DOCUMENTS - len(relevant)))
    return [*relevant, *Random(seed).sample(others, n_others)]


def _encode(
    data: RetrievalData, positives: dict[str, list[str]], ids: list[str], backbone: Backbone, prompt: Prompt
) -> _States:
    query_ids = prompt.query_ids([data.queries[query] for query in positives], with_bos=True)
    document_ids = prompt.document_ids([data.documents[document].content for document in ids])
    z_q = backbone.states(query_ids, "mean", "hard negatives: encoding queries")
    z_d = backbone.states(document_ids, "mean", "hard negatives: encoding documents")
    row_of_document = {document: row for row, document in enumerate(ids)}
    own = [row_of_document.get(query, -1) if data.is_own_document(query, query) else -1 for query in positives]
    relevant = [[row_of_document[document] for document in of_query] for of_query in positives.values()]
    return _States(z_q.clone(), z_d.clone(), relevant, own)  # clones, to leave inference mode


@torch.no_grad()
def _vote(votes: dict[int, Counter[int]], predictor: Predictor, states: _States) -> int:
    """Adds to each document's votes the probability that its queries give to others.

    Returns:
        The number of queries whose best document is relevant.
    """
    n_correct = 0
    for start in range(0, len(states.queries), QUERIES_PER_STEP):
        rows = slice(start, start + QUERIES_PER_STEP)
        log_odds = predictor.log_odds(states.queries[rows], states.documents)
        for row, relevant, own in zip(log_odds, states.positives[rows], states.own_documents[rows], strict=True):
            if own >= 0:
                row[own] = float("-inf")
            n_correct += int(row.argmax()) in relevant
            row = row.softmax(0)
            row[relevant] = 0.0
            shares, found = row.topk(min(MAX_NEGATIVES_PER_QUERY, len(row)))
            wrong = {i: share for i, share in zip(found.tolist(), shares.tolist(), strict=True) if share > 0}
            for document in relevant:
                votes[document].update(wrong)
    return n_correct
