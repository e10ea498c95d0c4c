"""Metrics of a distillation: a predictor that ignores the document looks fine by its loss alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rabtriever.scoring.predictor import Predictor
from rabtriever.training.encoded_data import EncodedData
from rabtriever.training.losses import embedding_error
from rabtriever.training.sampling import rank_documents

MAX_PAIRS, MAX_DOCUMENTS = 256, 32  # of a sample that collapse is measured on


@torch.no_grad()
def fresh_pair_pearson(predictor: Predictor, data: EncodedData, pairs: Tensor, targets: Tensor) -> dict[str, float]:
    """Returns the correlation with the teacher's log-odds on pairs not trained on yet: a free held-out sample.

    Pairs are int64 (p, 2) of (train query, document); their targets float32 (p, H), the teacher's context embeddings.

    Returns:
        ``teacher/pearson``; nothing of fewer than three pairs, or of log-odds that are all equal.
    """
    if len(pairs) < 3:
        return {}
    predicted = predictor(data.train.states[pairs[:, 0]], data.z_d[pairs[:, 1]])
    pearson = torch.corrcoef(torch.stack([predicted, targets]) @ predictor.choice_direction)[0, 1].item()
    return {"teacher/pearson": pearson} if math.isfinite(pearson) else {}


@torch.no_grad()
def collapse_metrics(predictor: Predictor, data: EncodedData, pairs: Tensor, targets: Tensor) -> dict[str, float]:
    """Returns whether the student looks at both texts, on a sample of the scored pairs.

    Errors are mean squares in units of each dimension's standard deviation, like ``loss/embedding``. Arguments are
    those of :func:`fresh_pair_pearson`.

    Returns:
        ``collapse/pair_error`` of the prediction; ``collapse/copy_query`` of z_q itself, and
        ``collapse/mean_document`` of the prediction's mean over documents, both of which it must clearly undercut; and
        ``collapse/spread``, the standard deviation of the prediction over documents. Nothing without pairs.
    """
    if not len(pairs):
        return {}
    rows = torch.linspace(0, len(pairs) - 1, min(MAX_PAIRS, len(pairs))).long()
    z_q, z_d, target = data.train.states[pairs[rows, 0]], data.z_d[pairs[rows, 1]], targets[rows]
    sample = data.z_d[torch.linspace(0, len(data.z_d) - 1, min(MAX_DOCUMENTS, len(data.z_d))).long()]
    over_documents, scale = torch.stack([predictor(z_q, document) for document in sample]), predictor.output_scale
    return {
        "collapse/pair_error": embedding_error(predictor(z_q, z_d), target, scale).item(),
        "collapse/copy_query": embedding_error(z_q, target, scale).item(),
        "collapse/mean_document": embedding_error(over_documents.mean(0), target, scale).item(),
        "collapse/spread": (over_documents.std(0, correction=0) / scale).mean().item(),
    }


def dev_recall(predictor: Predictor, data: EncodedData) -> dict[str, float]:
    """Returns ``dev/R@1``: how much of a query's relevant documents its best document is, a mean; nothing without any.

    A query's own document is left out.
    """
    if not len(data.dev):
        return {}
    _, best = rank_dev_documents(predictor, data, torch.arange(len(data.dev)), 1)
    hits = zip(best[:, 0].tolist(), data.dev.positives, strict=True)
    return {"dev/R@1": sum((document in relevant) / len(relevant) for document, relevant in hits) / len(data.dev)}


def rank_dev_documents(predictor: Predictor, data: EncodedData, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns :func:`rank_documents` of some development queries; a query's own document is left out."""
    dev = data.dev
    return rank_documents(
        lambda rows: predictor.log_odds(dev.states[rows], data.z_d), queries, len(data.z_d), count, dev.own_pairs
    )
