"""Hard negatives: the documents that a quick student, trained on the labels, mistakes for the right one."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from rabtriever.data import RetrievalData
from rabtriever.llm.backbone import Backbone
from rabtriever.llm.prompt import Prompt
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.losses import label_loss

MOST_QUERIES = 6000
STEPS = 600
DEPTH = 64  # wrong documents of a query that count


def mine_hard_negatives(
    data: RetrievalData,
    backbone: Backbone,
    prompt: Prompt,
    w: torch.Tensor,
    seed: int = 0,
    count: int = 32,
    most: int = MOST_QUERIES,
) -> tuple[dict[str, list[str]], Predictor | None]:
    """For each document with training queries, the others that rank highest for those queries.

    The frozen LLM reads queries and documents once; a predictor trained on the labels (minutes on a CPU, no pair is
    read) ranks all documents for each query. Random negatives are solved within a few hundred pairs; these are not.

    Args:
        data: Documents, queries, and qrels with a train split.
        backbone: The LLM as it is before this training.
        prompt: Its prompt.
        w: float32 (H,), w_yes - w_no.
        seed: Of the sample and the predictor.
        count: Documents to keep, hardest first.
        most: Training queries to read, at most.

    Returns:
        Document id -> ids; and a quick student, of one half of the queries (None if there are not two).
    """
    ids = list(data.documents)
    place = {document: i for i, document in enumerate(ids)}
    judged = data.positives("train", min(most, MOST_QUERIES), seed)
    positives = [[place[document] for document in right] for right in judged.values()]
    texts = [data.queries[query] for query in judged]
    z_q = backbone.states(prompt.query_ids(texts, alone=True), "mean", "mining: reading queries")
    contents = [document.content for document in data.documents.values()]
    z_d = backbone.states(prompt.document_ids(contents), "mean", "mining: reading documents")
    z_q, z_d = z_q.clone(), z_d.clone()  # out of inference mode
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    right = 0
    for fold in (0, 1):  # each half is ranked by what the other half taught: of its own labels a student is too sure
        learnt, ranked = list(range(fold, len(judged), 2)), list(range(1 - fold, len(judged), 2))
        if not learnt or not ranked:
            return {}, None
        predictor = fit_predictor(z_q[learnt], z_d, [positives[i] for i in learnt], w, STEPS, seed)
        right += _vote(votes, predictor, z_q[ranked], z_d, [positives[i] for i in ranked], w)
    print(f"mining: R@1 of the quick student on held-out queries {right / len(judged):.3f}", file=sys.stderr)
    hardest = {ids[document]: [ids[i] for i, _ in vote.most_common(count)] for document, vote in votes.items()}
    return hardest, predictor


@torch.no_grad()
def _vote(
    votes: dict[int, Counter[int]],
    predictor: Predictor,
    z_q: torch.Tensor,
    z_d: torch.Tensor,
    positives: list[list[int]],
    w: torch.Tensor,
) -> int:
    """Add to each document's votes the mass that its queries give to others; how many queries were right."""
    best = 0
    for start in range(0, len(z_q), 64):
        scores = predictor.log_odds(z_q[start : start + 64], z_d, w)
        for row, right in zip(scores, positives[start : start + 64], strict=True):
            best += int(row.argmax()) in right
            mass, found = row.softmax(0).index_fill(0, torch.tensor(right), 0.0).topk(min(DEPTH, len(row)))
            wrong = {i: share for i, share in zip(found.tolist(), mass.tolist(), strict=True) if share > 0}
            for document in right:
                votes[document].update(wrong)
    return best


def fit_predictor(
    z_q: Tensor, z_d: Tensor, positives: Sequence[Sequence[int]], choice_direction: Tensor, steps: int, seed: int
) -> Predictor:
    """Trains a predictor on labels alone: its log-odds rank, but are no probabilities. Arguments as :func:`label_loss`."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    predictor = Predictor(z_q.shape[1], dropout=0.2, choice_direction=choice_direction)
    predictor.fit_normalization("query", z_q)
    predictor.fit_normalization("document", z_d)
    optimiser = torch.optim.AdamW(predictor.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        rows = torch.randint(len(z_q), (64,), generator=generator)
        loss = label_loss(predictor, z_q[rows], z_d, [positives[row] for row in rows.tolist()], generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return predictor.eval()
