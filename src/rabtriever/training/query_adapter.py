"""A linear map of query embeddings, fitted to the labels: for documents that stay.

A regression gives each labelled document d a vector w_d: the softmax of ``beta <e_q, e_d> + <w_d, e_q>`` over these
documents fits the labels of the train queries, with a penalty of the w_d's squares. That is convex and takes seconds.
The map ``M = weight * sum_d w_d v_d^T`` does the same to the query, ``<e_q M, e_d> = weight <w_d, e_q>``, where v_d is
the ridge regression's answer to ``<v_d, e_j> = 1 for j = d, 0 for other labelled documents``: exactly so for no more
documents than embeddings have numbers. Index and scan know nothing of it.

It prefers documents that have labels much more than the predictor does: it is no good where others will come.
"""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rabtriever.scoring.examples import Examples
from rabtriever.training.encoded_data import EncodedData
from rabtriever.training.metrics import dev_recall
from rabtriever.training.new_documents import Setting, choose_by_dev, measure_settings
from rabtriever.training.selection import tolerance
from rabtriever.training.student import Student

PENALTIES = (1e-3, 1e-2, 1e-1)
RIDGES = (0.003, 0.03, 0.3)
WEIGHTS, SHARES = (0.25, 0.5, 1.0, 2.0), (1.0, 0.5, 0.25)
MAX_DOCUMENTS, MAX_ITERATIONS = 1024, 60


class QueryAdapter(NamedTuple):
    """What was fitted beside a student.

    Attributes:
        matrix: M, float32 (H, H).
        gain: Of the student's correction beside it.
        setting: Of the examples beside it.
    """

    matrix: Tensor
    gain: float
    setting: Setting


def fit_query_adapter(
    student: Student,
    gain: float,
    data: EncodedData,
    taught: Tensor,
    first_beta: float,
    examples: Examples | None,
    setting: Setting,
) -> QueryAdapter | None:
    """Fits M beside a trained student; penalty, ridge, weight, gain and setting are the best on dev queries.

    Args:
        student: The trained student.
        gain: Of its correction.
        data: Its labelled train queries are fitted, its ``dev`` decides.
        taught: bool (k,), documents that compete.
        first_beta: beta of the regression.
        examples: Beside the student, or None.
        setting: Of the examples, without M.

    Returns:
        None if dev queries find it no better than the student and its examples alone, or of so many documents that a
        regression takes minutes and few of them have enough labels.
    """
    labelled, documents = data.train.select(data.train.labelled), taught.nonzero().flatten()
    if not len(labelled) or not len(data.dev) or not 1 < len(documents) <= MAX_DOCUMENTS:
        return None
    z_d = data.z_d[documents]
    targets = torch.zeros(len(labelled), len(taught))
    for row, relevant in zip(targets, labelled.positives, strict=True):
        row[relevant] = 1 / len(relevant)
    maps = []
    for penalty in PENALTIES:
        w = fit_regression(labelled.states, first_beta * labelled.states @ z_d.T, targets[:, documents], penalty)
        maps += [w @ _answers(z_d, ridge) for ridge in RIDGES]
    candidates = [(share * gain, weight * one) for share in SHARES for weight in WEIGHTS for one in maps]
    recalls = [_recall(student, *candidate, data) for candidate in candidates]
    lower, matrix = candidates[int(np.argmax(recalls))]
    adapted, noise = copy(student), tolerance(len(data.dev))
    adapted.query_adapter = matrix
    gains, lowered = torch.full((len(taught),), gain), torch.full((len(taught),), lower)
    beside = choose_by_dev(adapted, data, lowered, examples, noise)
    before = measure_settings(student, data, gains, [setting], examples)[setting]
    after = measure_settings(adapted, data, lowered, [beside], examples)[beside]
    return QueryAdapter(matrix, lower, beside) if after > before + noise else None


def fit_regression(z_q: Tensor, offsets: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Fits the w_d by L-BFGS, with their penalty as for query embeddings whose numbers vary by 1.

    Args:
        z_q: float32 (n, H), embeddings of queries.
        offsets: float32 (n, m), what is added to ``<w_d, e_q>``.
        targets: float32 (n, m), shares of the documents that are right for each query; rows sum to 1.
        penalty: Of half the squares of the w_d.

    Returns:
        float32 (H, m).
    """
    scale = 1 / z_q.std(0).mean().clamp_min(1e-6)
    w = torch.zeros(z_q.shape[1], offsets.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=MAX_ITERATIONS)

    def closure() -> Tensor:
        optimizer.zero_grad()
        log_shares = torch.log_softmax(offsets + scale * (z_q @ w), dim=1)
        loss = -(targets * log_shares).sum(1).mean() + penalty / 2 * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return scale * w.detach()


def _answers(z_d: Tensor, ridge: float) -> Tensor:
    """Returns the v_d, float32 (m, H), of document embeddings (m, H)."""
    e = z_d.double()
    return torch.linalg.solve(e.T @ e + ridge * torch.eye(e.shape[1], dtype=e.dtype), e.T).T.float()


def _recall(student: Student, gain: float, matrix: Tensor, data: EncodedData) -> float:
    def log_odds(z_q: Tensor, z_d: Tensor) -> Tensor:
        return student.log_odds(z_q, z_d, gain) + z_q @ matrix @ z_d.T

    return dev_recall(log_odds, data)["dev/R@1"]
