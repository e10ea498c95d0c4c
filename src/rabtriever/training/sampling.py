"""Which pairs the teacher is asked about: the student's own ranking decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

FAR = -1e4  # out of reach as long as anything nearer is left
NEAR = 256  # documents that exploration draws from: a random one of a large corpus teaches nothing


def sample_pairs(
    log_odds: Tensor,
    positives: Sequence[Sequence[int]],
    known: Tensor,
    count: int,
    exploration: float,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """The pairs that the teacher scores for a batch of queries: a judged positive, the policy's choice, exploration.

    Args:
        log_odds: float (n, k), the student's, or whatever the policy prefers by.
        positives: Judged documents of each query; empty without qrels.
        known: bool (n, k), pairs that were scored before; they are not chosen again.
        count: Pairs a query.
        exploration: Chance that a document is drawn uniformly, from the best ``NEAR``, instead of from the policy.
        temperature: Of the policy, the softmax over the student's log-odds.
        generator: Source of chance.

    Returns:
        int64 (at most n * count, 2) of (row of ``log_odds``, document), no pair twice.
    """
    taken = known.clone()
    least = log_odds.topk(min(NEAR, log_odds.shape[1]), dim=1).values[:, -1:]
    anywhere = torch.zeros_like(log_odds).masked_fill(log_odds < least, FAR)
    chosen = [torch.empty(0, 2, dtype=torch.long)]
    for slot in range(count):
        left = (~taken).any(1).nonzero().flatten()
        explore = torch.rand(len(log_odds), 1, generator=generator) < exploration
        logits = torch.where(explore, anywhere, log_odds / temperature).masked_fill(taken, float("-inf"))
        # Gumbel's trick: the argmax of logits + noise is a draw from their softmax.
        uniform = torch.rand(log_odds.shape, generator=generator).clamp_min(1e-20)
        column = (logits - torch.log(-torch.log(uniform))).argmax(1)
        if slot == 0:
            for row, right in enumerate(positives):
                fresh = [document for document in right if not taken[row, document]]
                if fresh:
                    column[row] = fresh[int(torch.randint(len(fresh), (1,), generator=generator))]
        taken[left, column[left]] = True
        chosen.append(torch.stack([left, column[left]], dim=1))
    return torch.cat(chosen)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless random batches of ``size`` different positions; each pass over all of them is shuffled anew."""
    left = torch.empty(0, dtype=torch.long)
    while True:
        if len(left) < size:
            fresh = torch.randperm(count, generator=generator)
            more = fresh[~torch.isin(fresh, left)][: size - len(left)]
            batch, left = torch.cat([left, more]), fresh[~torch.isin(fresh, more)]
        else:
            batch, left = left[:size], left[size:]
        yield batch
