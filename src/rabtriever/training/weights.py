"""What each model of a teacher should count: fitted to labelled queries."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rabtriever.scoring.calibration import LIST_DEPTH
from rabtriever.training.cached_teacher import CachedTeacher
from rabtriever.training.encoded_data import EncodedQueries
from rabtriever.training.sampling import rank_documents
from rabtriever.training.targets import Targets
from rabtriever.training.teacher import Teacher

MIN_QUERIES = 30  # fewer decide nothing
PULL = 0.01  # towards the default weights, relative to them
STEPS, LEARNING_RATE = 300, 0.03


def weigh_teacher(teacher: CachedTeacher, queries: EncodedQueries, n_read: int) -> Teacher:
    """Returns the teacher with weights under which its softmax over documents gives labels the greatest likelihood.

    Args:
        teacher: With default weights; rerankers read the encoders' best documents of ``n_read`` queries.
        queries: Labelled ones.
        n_read: Most queries, if there are rerankers; below :data:`MIN_QUERIES` the defaults stay.
    """
    encoders, rerankers = teacher.teacher.encoders, teacher.teacher.rerankers
    if rerankers:
        queries = queries.select(torch.linspace(0, len(queries) - 1, min(n_read, len(queries))).long())
    if len(queries) < MIN_QUERIES or len(encoders) + len(rerankers) < 2 or not encoders:
        return teacher.teacher
    rows, documents = torch.arange(len(queries)), torch.arange(len(teacher.documents))
    similarities = teacher.similarities(queries.texts)
    lists = [Targets([(1.0, q, d)]).similarity(rows, documents) for _, q, d in similarities]
    if rerankers:
        score = partial(Targets(similarities).similarity, documents=documents)
        values, best = rank_documents(score, rows, len(documents), LIST_DEPTH, queries.own_pairs)
        pairs = torch.stack([rows[:, None].expand_as(best), best], dim=2)[~values.isneginf()]
        for log_odds in teacher.read_each(queries.texts, pairs):
            targets = Targets([])
            targets.add(pairs, log_odds, torch.empty(len(pairs), 0))
            lists.append(targets.lists(rows, documents))
    start = torch.tensor([weight for _, weight in [*encoders, *rerankers]])
    positive = torch.zeros(len(queries), len(documents), dtype=torch.bool)
    for row, relevant in enumerate(queries.positives):
        positive[row, relevant] = True
    own = queries.own_documents[:, None] == documents
    found = fit_weights(torch.stack(lists).masked_fill(own, -1e4), positive, start).tolist()
    return replace(
        teacher.teacher,
        encoders=[(one, weight) for (one, _), weight in zip(encoders, found, strict=False)],
        rerankers=[(one, weight) for (one, _), weight in zip(rerankers, found[len(encoders) :], strict=True)],
    )


def fit_weights(scores: Tensor, positive: Tensor, start: Tensor) -> Tensor:
    """Maximises the mean log-likelihood of labels under the softmax of a weighted sum of scores.

    Args:
        scores: float32 (models, n, k).
        positive: bool (n, k).
        start: float32 (models,), default weights, which a few labels change little.

    Returns:
        float32 (models,), none below 0.
    """
    relative = torch.ones(len(start), requires_grad=True)
    optimizer = torch.optim.Adam([relative], lr=LEARNING_RATE)
    for _ in range(STEPS):
        log_odds = torch.einsum("m,mnk->nk", start * relative.clamp_min(0), scores)
        likelihood = log_odds.masked_fill(~positive, float("-inf")).logsumexp(1) - log_odds.logsumexp(1)
        loss = PULL * (relative - 1).square().sum() - likelihood.mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return (start * relative.clamp_min(0)).detach()
