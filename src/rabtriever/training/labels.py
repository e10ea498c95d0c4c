"""Learning from judged labels alone, through the fold: no LLM pass and no teacher call a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rabtriever.scoring.predictor import Predictor
from rabtriever.training.losses import listwise

CANDIDATES = 1024  # documents that a softmax runs over, at most


def label_loss(
    predictor: Predictor,
    z_q: Tensor,
    z_d: Tensor,
    positives: Sequence[Sequence[int]],
    w: Tensor,
    chance: torch.Generator,
) -> Tensor:
    """Softmax cross-entropy over all documents (a random share of them plus the positives, if there are very many).

    Args:
        predictor: In training.
        z_q: float32 (n, H) query states.
        z_d: float32 (k, H) all documents' states.
        positives: Positions of the n queries' judged documents.
        w: float32 (H,), w_yes - w_no.
        chance: Source of chance.

    Returns:
        Scalar.
    """
    candidates = torch.arange(len(z_d))
    if len(candidates) > CANDIDATES:
        drawn = torch.randperm(len(candidates), generator=chance)[:CANDIDATES]
        candidates = torch.unique(torch.cat([drawn, torch.tensor([d for some in positives for d in some])]))
    column = {document: i for i, document in enumerate(candidates.tolist())}
    positive = torch.zeros(len(z_q), len(candidates), dtype=torch.bool)
    for row, some in enumerate(positives):
        positive[row, [column[document] for document in some]] = True
    return listwise(predictor.log_odds(z_q, z_d[candidates], w), positive.to(z_d.device))


def fit_predictor(
    z_q: Tensor, z_d: Tensor, positives: Sequence[Sequence[int]], w: Tensor, steps: int, seed: int, width: int = 256
) -> Predictor:
    """A predictor trained on labels alone: a ranking, not yet a probability. Arguments as in :func:`label_loss`."""
    chance = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    predictor = Predictor(z_q.shape[1], width, dropout=0.2)
    predictor.fit_normalization("query", z_q)
    predictor.fit_normalization("document", z_d)
    optimiser = torch.optim.AdamW(predictor.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        rows = torch.randint(len(z_q), (64,), generator=chance)
        loss = label_loss(predictor, z_q[rows], z_d, [positives[row] for row in rows.tolist()], w, chance)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return predictor.eval()
