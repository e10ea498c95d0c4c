"""Metrics of a distillation: a predictor that ignores the document looks fine by its loss alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rabtriever.scoring.predictor import Predictor
from rabtriever.training.encoded_data import EncodedData
from rabtriever.training.losses import embedding_error
from rabtriever.training.sampling import rank_documents
from rabtriever.training.targets import Targets

Score = Callable[[Tensor, Tensor], Tensor]
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
    size = targets.shape[1]
    predicted = predictor(data.train.states[pairs[:, 0]], data.z_d[pairs[:, 1]])[:, :size]
    pearson = torch.corrcoef(torch.stack([predicted, targets]) @ predictor.choice_direction[:size])[0, 1].item()
    return {"teacher/pearson": pearson} if math.isfinite(pearson) else {}


@torch.no_grad()
def collapse_metrics(predictor: Predictor, data: EncodedData, targets: Targets) -> dict[str, float]:
    """Returns whether the student looks at both texts, on a sample of the scored pairs.

    Errors are mean squares in units of each dimension's standard deviation, like ``loss/embedding``.

    Returns:
        ``collapse/pair_error`` of the prediction; ``collapse/copy_query`` of z_q itself, if it is as wide, and
        ``collapse/mean_document`` of the prediction's mean over documents, both of which it must clearly undercut; and
        ``collapse/spread``, the standard deviation of the prediction over documents. Nothing without any
        context embedding.
    """
    pairs, size = targets.pairs, targets.states.shape[1]
    if not size:
        return {}
    rows = torch.linspace(0, len(pairs) - 1, min(MAX_PAIRS, len(pairs))).long()
    z_q, z_d, target = data.train.states[pairs[rows, 0]], data.z_d[pairs[rows, 1]], targets.states[rows]
    sample = data.z_d[torch.linspace(0, len(data.z_d) - 1, min(MAX_DOCUMENTS, len(data.z_d))).long()]
    over_documents = torch.stack([predictor(z_q, document)[:, :size] for document in sample])
    scale = predictor.output_scale[:size]
    copied = {"collapse/copy_query": embedding_error(z_q, target, scale).item()} if z_q.shape[1] == size else {}
    return {
        "collapse/pair_error": embedding_error(predictor(z_q, z_d)[:, :size], target, scale).item(),
        **copied,
        "collapse/mean_document": embedding_error(over_documents.mean(0), target, scale).item(),
        "collapse/spread": (over_documents.std(0, correction=0) / scale).mean().item(),
    }


def dev_recall(score: Score, data: EncodedData) -> dict[str, float]:
    """Returns ``dev/R@1``: how much of a query's relevant documents its best document is, a mean; nothing without any.

    ``score`` maps states of queries (n, H) and documents (k, H) to log-odds (n, k). A query's own document is left out.
    """
    if not len(data.dev):
        return {}
    _, best = rank_dev_documents(score, data, torch.arange(len(data.dev)), 1)
    hits = zip(best[:, 0].tolist(), data.dev.positives, strict=True)
    return {"dev/R@1": sum((document in relevant) / len(relevant) for document, relevant in hits) / len(data.dev)}


def rank_dev_documents(score: Score, data: EncodedData, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns :func:`rank_documents` of some development queries; a query's own document is left out."""
    dev = data.dev
    return rank_documents(lambda rows: score(dev.states[rows], data.z_d), queries, len(data.z_d), count, dev.own_pairs)
