"""Choosing the pairs that the teacher scores: the student's own ranking decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from rabtriever.training.config import DistillConfig

POLICY_DEPTH = 64  # best documents that the policy draws from: over a large corpus its softmax would be flat
EXPLORATION_DEPTH = 256  # and that exploration draws from: a random document of a large corpus teaches nothing
MAX_SCORES = 2**24  # log-odds in memory at a time
MAX_QUERIES = 64  # that are scored at a time


@torch.no_grad()
def rank_documents(
    score: Callable[[Tensor], Tensor], queries: Tensor, n_documents: int, count: int, excluded: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the ``count`` best documents of queries int64 (n,), without holding the scores of all at a time.

    ``score`` maps some of the queries, int64 (m,), to log-odds float (m, n_documents); ``excluded``, int64 (p, 2) of
    (query, document), are pairs to leave out, of these or other queries.

    Returns:
        On the CPU: log-odds float (n, c), best first, -inf for a document that is left out; and positions of the
        documents, int64 (n, c).
    """
    values, documents = [], []
    for block in queries.split(max(1, min(MAX_QUERIES, MAX_SCORES // n_documents))):
        log_odds = score(block).float()
        rows, pairs = (block[:, None] == excluded[:, 0]).nonzero().T
        left_out = rows.to(log_odds.device), excluded[pairs, 1].to(log_odds.device)
        best = log_odds.index_put(left_out, log_odds.new_tensor(float("-inf"))).topk(min(count, n_documents), dim=1)
        values.append(best.values.cpu())
        documents.append(best.indices.cpu())
    return torch.cat(values), torch.cat(documents)


def sample_pairs(
    log_odds: Tensor,
    documents: Tensor,
    positives: Sequence[Sequence[int]],
    count: int,
    config: DistillConfig,
    generator: torch.Generator,
) -> Tensor:
    """Samples the pairs that the teacher scores: a labelled positive, the policy's choices, exploration.

    The policy is the softmax of the ``POLICY_DEPTH`` best; with probability ``exploration``, a document is drawn
    uniformly from the ``EXPLORATION_DEPTH`` best instead.

    Args:
        log_odds: float (n, c), the candidates' log-odds, best first; -inf for one that must not be chosen.
        documents: int64 (n, c), the candidates (:func:`rank_documents`).
        positives: Documents of each query, one of which is chosen first; empty for an unlabelled query.
        count: Pairs per query.
        config: ``exploration`` and ``temperature``.
        generator: Random numbers.

    Returns:
        int64 (at most n * count, 2) of (row, document), no pair twice, the pairs of a row side by side.
    """
    taken, remaining = log_odds.isneginf(), torch.full((len(log_odds),), count)
    sampled = [torch.empty(0, 2, dtype=torch.long)]
    for row, relevant in enumerate(positives):
        if relevant:
            document = relevant[int(torch.randint(len(relevant), (1,), generator=generator))]
            taken[row] |= documents[row] == document
            remaining[row] -= 1
            sampled.append(torch.tensor([[row, document]]))
    for _ in range(count):
        rows = ((remaining > 0) & ~taken.all(1)).nonzero().flatten()
        explore = torch.rand(len(rows), 1, generator=generator) < config.exploration
        logits = torch.where(explore, torch.zeros(()), log_odds[rows] / config.temperature)
        # Ranks among those that are left, so that the policy goes deeper when its best are taken.
        rank = (~taken[rows]).cumsum(1)
        out_of_reach = taken[rows] | (rank > torch.where(explore, EXPLORATION_DEPTH, POLICY_DEPTH))
        # Gumbel's trick: the argmax of logits + noise is a draw from their softmax.
        noise = torch.rand(logits.shape, generator=generator).clamp(1e-20, 1 - 1e-7)
        column = (logits - torch.log(-torch.log(noise))).masked_fill(out_of_reach, float("-inf")).argmax(1)
        taken[rows, column] = True
        remaining[rows] -= 1
        sampled.append(torch.stack([rows, documents[rows, column]], dim=1))
    pairs = torch.cat(sampled)
    return pairs[pairs[:, 0].argsort(stable=True)]


def shuffled_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields, without end, random batches of ``size`` different positions; each pass over all is shuffled anew."""
    pending = torch.empty(0, dtype=torch.long)
    while True:
        if len(pending) < size:
            order = torch.randperm(count, generator=generator)
            added = order[~torch.isin(order, pending)][: size - len(pending)]
            batch, pending = torch.cat([pending, added]), order[~torch.isin(order, added)]
        else:
            batch, pending = pending[:size], pending[size:]
        yield batch
