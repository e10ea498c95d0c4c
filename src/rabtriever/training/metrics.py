"""Metrics of a distillation: a predictor that ignores the document looks fine by its loss alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rabtriever.scoring.predictor import Predictor
from rabtriever.training.encoded_data import EncodedQueries
from rabtriever.training.sampling import rank_documents

MAX_PAIRS, MAX_DOCUMENTS = 256, 32  # of a sample that collapse is measured on


@torch.no_grad()
def fresh_pair_pearson(predictor: Predictor, z_q: Tensor, z_d: Tensor, target: Tensor) -> dict[str, float]:
    """Returns the correlation with the teacher's log-odds on pairs not trained on yet: a free held-out sample.

    Args:
        predictor: The student.
        z_q: float32 (n, H), query states of the pairs.
        z_d: float32 (n, H), document states.
        target: float32 (n, H), the teacher's context embeddings.

    Returns:
        ``teacher/pearson``; nothing of fewer than three pairs, or of log-odds that are all equal.
    """
    if len(target) < 3:
        return {}
    log_odds = torch.stack([predictor(z_q, z_d), target]) @ predictor.choice_direction
    pearson = torch.corrcoef(log_odds)[0, 1].item()
    return {"teacher/pearson": pearson} if math.isfinite(pearson) else {}


@torch.no_grad()
def collapse_metrics(
    predictor: Predictor, z_q: Tensor, z_d: Tensor, pairs: Tensor, targets: Tensor
) -> dict[str, float]:
    """Returns whether the student looks at both texts, on a sample of the scored pairs.

    Errors are mean squares in units of each dimension's standard deviation, like ``loss/embedding``.

    Args:
        predictor: The student.
        z_q: float32 (n, H), all query states.
        z_d: float32 (k, H), all document states.
        pairs: int64 (p, 2) of (query, document).
        targets: float32 (p, H), the teacher's context embeddings of the pairs.

    Returns:
        ``collapse/pair_error`` of the prediction; ``collapse/copy_query`` of z_q itself, and
        ``collapse/mean_document`` of the prediction's mean over documents, both of which it must clearly undercut; and
        ``collapse/spread``, the standard deviation of the prediction over documents. Nothing without pairs.
    """
    if not len(pairs):
        return {}
    rows = torch.linspace(0, len(pairs) - 1, min(MAX_PAIRS, len(pairs))).long()
    (q, d), target = pairs[rows].T, targets[rows]
    sample = z_d[torch.linspace(0, len(z_d) - 1, min(MAX_DOCUMENTS, len(z_d))).long()]
    over_documents = torch.stack([predictor(z_q[q], document) for document in sample])

    def error(predicted: Tensor) -> float:
        return ((predicted - target) / predictor.output_scale).square().mean().item()

    return {
        "collapse/pair_error": error(predictor(z_q[q], z_d[d])),
        "collapse/copy_query": error(z_q[q]),
        "collapse/mean_document": error(over_documents.mean(0)),
        "collapse/spread": (over_documents.std(0, correction=0) / predictor.output_scale).mean().item(),
    }


def dev_recall(predictor: Predictor, z_d: Tensor, dev: EncodedQueries) -> dict[str, float]:
    """Returns ``dev/R@1``: how much of a query's relevant documents its best document is, a mean; nothing without any.

    Args:
        predictor: The student.
        z_d: float32 (k, H), all document states.
        dev: Development queries; a query's own document is left out.
    """
    if not len(dev):
        return {}

    def score(queries: Tensor) -> Tensor:
        return predictor.log_odds(dev.states[queries], z_d)

    _, best = rank_documents(score, torch.arange(len(dev)), len(z_d), 1, dev.own_pairs)
    hits = zip(best[:, 0].tolist(), dev.positives, strict=True)
    return {"dev/R@1": sum((document in relevant) / len(relevant) for document, relevant in hits) / len(dev)}
