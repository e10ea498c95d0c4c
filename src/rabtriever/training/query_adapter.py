"""A linear map of query embeddings, fitted to the labels: for documents that stay.

A regression gives each labelled document d a vector w_d: the softmax of ``beta <e_q, e_d> + <w_d, e_q>`` over these
documents fits the labels of the train queries, with a penalty of the w_d's squares. That is convex and takes seconds.
The map ``M = weight * sum_d w_d v_d^T`` does the same to the query, ``<e_q M, e_d> = weight <w_d, e_q>``, where v_d is
the ridge regression's answer to ``<v_d, e_j> = 1 for j = d, 0 for other labelled documents``: exactly so for no more
documents than embeddings have numbers. Index and scan know nothing of it.

It prefers documents that have labels much more than the predictor does: it is no good where others will come.
"""

from __future__ import annotations

import itertools
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from rabtriever.scoring.examples import Examples, ridge_answers
from rabtriever.training.encoded_data import EncodedData, EncodedQueries
from rabtriever.training.new_documents import MIN_QUERIES, Setting, choose_by_dev, measure_settings
from rabtriever.training.selection import tolerance
from rabtriever.training.student import Student

PENALTIES, RIDGES = (1e-1, 1e-2, 1e-3), (0.3, 0.03, 0.003)  # the strongest first: of equals the first is taken
SHARES, WEIGHTS = (1.0, 0.5, 0.25), (0.25, 0.5, 1.0, 2.0)  # of the gain, and of M
MAX_DOCUMENTS, MAX_ITERATIONS = 2048, 60
OWN_DOCUMENT = -1e9  # log-odds of a query and the document that it is itself


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
    student: Student, gain: float, data: EncodedData, first_beta: float, examples: Examples | None, setting: Setting
) -> QueryAdapter | None:
    """Fits M beside a trained student; penalty, ridge, weight, gain and setting are the best on dev queries.

    Args:
        student: The trained student, over an encoder's similarity.
        gain: Of its correction.
        data: Its labelled train queries are fitted, its ``dev`` decides.
        first_beta: beta of the regression.
        examples: Beside the student, or None.
        setting: Of the examples, without M.

    Returns:
        None if dev queries find it no better than the student and its examples alone, if they are too few to say, or of
        so many documents that a regression takes minutes and few of them have enough labels.
    """
    labelled = data.train.select(data.train.labelled)
    documents = torch.tensor(sorted({document for relevant in labelled.positives for document in relevant}))
    if len(data.dev) < MIN_QUERIES or len(documents) < 2 or len(data.z_d) > MAX_DOCUMENTS:
        return None
    z_d = data.z_d[documents]
    offsets = _without_own(first_beta * labelled.states @ data.z_d.T, labelled)[:, documents]
    targets = _shares(labelled, len(data.z_d))[:, documents]
    maps = []
    for penalty in PENALTIES:
        w = fit_regression(labelled.states, offsets, targets, penalty)
        maps += [w @ torch.from_numpy(ridge_answers(z_d.numpy(), ridge)) for ridge in RIDGES]
    share, weight, matrix = _choose(student, gain, data, maps)
    adapted, noise = copy(student), tolerance(len(data.dev))
    adapted.query_adapter = weight * matrix
    gains, lowered = (torch.full((len(data.z_d),), value) for value in (gain, share * gain))
    beside = choose_by_dev(adapted, data, lowered, examples, noise)
    before = measure_settings(student, data, gains, [setting], examples)[setting]
    after = measure_settings(adapted, data, lowered, [beside], examples)[beside]
    return QueryAdapter(adapted.query_adapter, share * gain, beside) if after > before + noise else None


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
    scale = 1 / z_q.std(0, correction=0).mean().clamp_min(1e-6)
    w = torch.zeros(z_q.shape[1], offsets.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        log_shares = torch.log_softmax(offsets + scale * (z_q @ w), dim=1)
        loss = -(targets * log_shares).sum(1).mean() + penalty / 2 * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return scale * w.detach()


@torch.no_grad()
def _choose(student: Student, gain: float, data: EncodedData, maps: list[Tensor]) -> tuple[float, float, Tensor]:
    """Returns the share of the gain, the weight and the map of the highest R@1 on dev queries."""
    z_q, z_d, right = data.dev.states, data.z_d, _shares(data.dev, len(data.z_d))
    similarity = _without_own(student.log_odds(z_q, z_d, 0.0), data.dev)
    correction = gain * (student.log_odds(z_q, z_d, 1.0) - student.log_odds(z_q, z_d, 0.0))
    added = [z_q @ matrix @ z_d.T for matrix in maps]
    recalls = {}
    for share, weight, row in itertools.product(SHARES, WEIGHTS, range(len(maps))):
        best = (similarity + share * correction + weight * added[row]).argmax(1, keepdim=True)
        recalls[share, weight, row] = right.gather(1, best).mean().item()
    share, weight, row = max(recalls, key=lambda candidate: recalls[candidate])
    return share, weight, maps[row]


def _shares(queries: EncodedQueries, n_documents: int) -> Tensor:
    """Returns the shares of the documents that are right for each query, float32 (n, n_documents)."""
    shares = torch.zeros(len(queries), n_documents)
    for row, relevant in zip(shares, queries.positives, strict=True):
        row[relevant] = 1 / max(1, len(relevant))
    return shares


def _without_own(log_odds: Tensor, queries: EncodedQueries) -> Tensor:
    log_odds[tuple(queries.own_pairs.T)] = OWN_DOCUMENT
    return log_odds
