"""Hard negatives: the documents that a predictor, trained on the labels alone, mistakes for the relevant one."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from rabtriever.data import RetrievalData
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.progress import is_shown, track
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.encoded_data import EncodedQueries, index_queries
from rabtriever.training.losses import label_loss
from rabtriever.training.reranker_trainer import RerankerModule

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


def mine_hard_negatives(
    data: RetrievalData, llm: PromptedLLM | RerankerModule, *, seed: int = 0, max_queries: int = MAX_QUERIES
) -> HardNegatives:
    """Finds, for each document of the train queries, the others that rank highest for those queries.

    The LLM encodes queries and documents once; a predictor trained on the labels (minutes on a CPU, no pair is scored
    by the LLM) ranks all documents for each query. Random negatives are solved within a few hundred pairs; these are
    not. A query's own document (:meth:`RetrievalData.is_own_document`) is never a negative of its.

    Args:
        data: Documents, queries, and qrels with a train split, the only one that is used.
        llm: The LLM as it is before this training.
        seed: Of the samples and the predictor.
        max_queries: Most train queries to encode.
    """
    positives = data.positives("train", min(max_queries, MAX_QUERIES), seed)
    if len(positives) < 2:
        return HardNegatives({})
    ids = _candidates(data, positives, seed)
    query_ids = llm.prompt.query_ids([data.queries[query] for query in positives], with_bos=True)
    document_ids = llm.prompt.document_ids([data.documents[document].content for document in ids])
    # Clones, to leave inference mode.
    shown = is_shown()
    z_q = llm.backbone.states(query_ids, "mean", "hard negatives: encoding queries" if shown else None).clone()
    z_d = llm.backbone.states(document_ids, "mean", "hard negatives: encoding documents" if shown else None).clone()
    queries = index_queries(data, positives, z_q, ids)
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    n_correct, halves = 0, [queries.select(torch.arange(start, len(queries), 2)) for start in (0, 1)]
    # Each half is ranked by what the other half taught: of its own labels a student is too sure.
    for learned, ranked in (halves, reversed(halves)):
        student = fit_predictor(learned, z_d, llm.choice_direction.cpu(), STEPS, seed)
        n_correct += _vote(votes, student, ranked, z_d)
    by_document = {
        ids[document]: [ids[i] for i, _ in vote.most_common(MAX_NEGATIVES_PER_DOCUMENT)]
        for document, vote in votes.items()
    }
    return HardNegatives(by_document, student, n_correct / len(queries))


def fit_predictor(queries: EncodedQueries, z_d: Tensor, choice_direction: Tensor, steps: int, seed: int) -> Predictor:
    """Trains a predictor on labels alone: its log-odds rank documents z_d (k, H), but are no probabilities."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    predictor = Predictor(z_d.shape[1], dropout=0.2, choice_direction=choice_direction)
    predictor.fit_normalization("query", queries.states)
    predictor.fit_normalization("document", z_d)
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    for _ in track(range(steps), "hard negatives: training a predictor"):
        rows = torch.randint(len(queries), (QUERIES_PER_STEP,), generator=generator)
        optimizer.zero_grad()
        label_loss(
            lambda q, d: predictor.log_odds(q, z_d[d]), queries.select(rows), torch.arange(len(z_d)), generator
        ).backward()
        optimizer.step()
        schedule.step()
    return predictor.eval()


def _candidates(data: RetrievalData, positives: dict[str, list[str]], seed: int) -> list[str]:
    """Returns the ids of the documents to encode: all, or of a large corpus the relevant ones and a random sample."""
    if len(data.documents) <= MAX_DOCUMENTS:
        return list(data.documents)
    relevant = dict.fromkeys(document for of_query in positives.values() for document in of_query)
    others = [document for document in data.documents if document not in relevant]
    return [*relevant, *Random(seed).sample(others, max(0, MAX_DOCUMENTS - len(relevant)))]


@torch.no_grad()
def _vote(votes: dict[int, Counter[int]], predictor: Predictor, queries: EncodedQueries, z_d: Tensor) -> int:
    """Adds the probability that queries give to other documents to the votes of their relevant ones.

    Returns:
        The number of queries whose best document is relevant.
    """
    n_correct = 0
    for rows in torch.arange(len(queries)).split(QUERIES_PER_STEP):
        block = queries.select(rows)
        log_odds = predictor.log_odds(block.states, z_d)
        log_odds[tuple(block.own_pairs.T)] = float("-inf")
        for row, relevant in zip(log_odds, block.positives, strict=True):
            n_correct += int(row.argmax()) in relevant
            shares = row.softmax(0)
            shares[relevant] = 0.0
            best = shares.topk(min(MAX_NEGATIVES_PER_QUERY, len(shares)))
            wrong = {i: share for share, i in zip(*map(Tensor.tolist, best), strict=True) if share > 0}
            for document in relevant:
                votes[document].update(wrong)
    return n_correct
