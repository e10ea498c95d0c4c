"""The losses: pure functions of tensors, and the weighted sum that a distillation minimises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rabtriever.scoring.predictor import Predictor
from rabtriever.training.config import DistillConfig

MAX_CANDIDATES = 1024  # documents of a softmax over labels


class Losses(NamedTuple):
    """Losses of a step.

    Attributes:
        total: Scalar, what is minimised.
        terms: Its parts by their names in the log, before they are weighted.
    """

    total: Tensor
    terms: dict[str, Tensor]


def listwise(log_odds: Tensor, positive: Tensor) -> Tensor:
    """Computes the softmax cross-entropy over the documents of a query.

    Args:
        log_odds: float (n_queries, n_documents); -inf for documents to leave out.
        positive: bool, the same shape; the relevant documents.

    Returns:
        Scalar: mean over queries of -log of the mass on their positives. Queries without one are left out; 0 if none
        has one.
    """
    rows = positive.any(1)
    relevant = log_odds[rows].masked_fill(~positive[rows], float("-inf"))
    return (log_odds[rows].logsumexp(1) - relevant.logsumexp(1)).sum() / max(1, len(relevant))


def pointwise(log_odds: Tensor, positive: Tensor) -> Tensor:
    """Computes the binary cross-entropy of the choice (SFT, restricted to the two choice tokens), mean over pairs."""
    return F.binary_cross_entropy_with_logits(log_odds, positive.to(log_odds.dtype))


def dpo(log_odds: Tensor, reference: Tensor, positive: Tensor, beta: float = 0.1) -> Tensor:
    """Computes the loss of direct preference optimisation of the right choice over the wrong one (arXiv 2412.16615).

    The difference of the two choices' log-probabilities is the log-odds, so a pair's margin is
    ``beta * (log_odds - reference)``, with the sign of its label.

    Args:
        log_odds: float (n_queries, n_documents) of the policy.
        reference: float, the same shape, of the LLM without its adapter.
        positive: bool, the same shape.
        beta: Strength of the pull towards the reference.
    """
    sign = positive.to(log_odds.dtype) * 2 - 1
    return -F.logsigmoid(beta * sign * (log_odds - reference)).mean()


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Computes KL(student || teacher) over the two choices (arXiv 2604.23336); the forward KL with arguments exchanged.

    Args:
        student: float (n,) log-odds.
        teacher: float (n,) log-odds.

    Returns:
        Scalar, nats, mean over pairs.
    """
    yes = student.sigmoid()
    log_yes = F.logsigmoid(student) - F.logsigmoid(teacher)
    log_no = F.logsigmoid(-student) - F.logsigmoid(-teacher)
    return (yes * log_yes + (1 - yes) * log_no).mean()


def log_odds_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Computes the squared error of the log-odds, in units of the teacher's spread over the batch.

    Unlike a KL it does not saturate: how far apart two hopeless documents are still counts.

    Args:
        student: float (n,) log-odds.
        teacher: float (n,) log-odds.

    Returns:
        Scalar; 1 is the error of the teacher's mean, if the teacher's variance is above 1.
    """
    return (student - teacher).square().mean() / teacher.var(correction=0).clamp_min(1.0)


def decorrelation(student: Tensor, teacher: Tensor) -> Tensor:
    """Computes one minus the correlation of log-odds: blind to scale and offset, which distillation settles later.

    Args:
        student: float (n,) log-odds.
        teacher: float (n,) log-odds.

    Returns:
        Scalar in [0, 2].
    """
    return 1 - F.cosine_similarity(student - student.mean(), teacher - teacher.mean(), dim=0)


def embedding_error(predicted: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Computes the JEPA term: squared error of the context embedding, each dimension in units of its own spread.

    Args:
        predicted: float (n, H), the predictor's z^.
        target: float (n, H), the teacher's z*.
        scale: float (H,), standard deviation of z* over pairs.

    Returns:
        Scalar; 1 is the error of the mean of z*.
    """
    return ((predicted - target) / scale).square().mean()


def label_loss(
    predictor: Predictor,
    z_q: Tensor,
    z_d: Tensor,
    positives: Sequence[Sequence[int]],
    generator: torch.Generator,
    own_documents: Sequence[int] | None = None,
) -> Tensor:
    """Computes the softmax cross-entropy of labelled queries over all documents (a sample of them, if very many).

    Args:
        predictor: In training.
        z_q: float32 (n, H) query states.
        z_d: float32 (k, H) all documents' states.
        positives: Positions of the n queries' relevant documents; empty for an unlabelled query, which does not count.
        generator: Random numbers.
        own_documents: Position of the document that is the query itself, which is no negative; -1 if there is none.

    Returns:
        Scalar; 0 if no query is labelled.
    """
    labelled = [row for row, relevant in enumerate(positives) if relevant]
    if not labelled:
        return z_q.new_zeros(())
    z_q, positives = z_q[labelled], [positives[row] for row in labelled]
    candidates = torch.arange(len(z_d))
    if len(candidates) > MAX_CANDIDATES:
        sampled = torch.randperm(len(candidates), generator=generator)[:MAX_CANDIDATES]
        candidates = torch.unique(torch.cat([sampled, torch.tensor([d for relevant in positives for d in relevant])]))
    column = {document: i for i, document in enumerate(candidates.tolist())}
    positive = torch.zeros(len(z_q), len(candidates), dtype=torch.bool)
    for row, relevant in enumerate(positives):
        positive[row, [column[document] for document in relevant]] = True
    log_odds = predictor.log_odds(z_q, z_d[candidates.to(z_d.device)])
    if own_documents is not None:
        own = torch.tensor([own_documents[row] for row in labelled])[:, None] == candidates
        log_odds = log_odds.masked_fill(own.to(log_odds.device), float("-inf"))
    return listwise(log_odds, positive.to(log_odds.device))


class DistillLoss:
    """The weighted sum of the losses of a distillation.

    Args:
        config: Its weights.
    """

    def __init__(self, config: DistillConfig) -> None:
        self.weights = {
            "loss/embedding": config.embedding_weight,
            "loss/log_odds": config.log_odds_weight,
            "loss/kl": config.kl_weight,
            "loss/labels": config.label_weight,
        }

    def __call__(self, predictor: Predictor, predicted: Tensor, target: Tensor, labels: Tensor) -> Losses:
        """Computes the losses of a step.

        Args:
            predictor: In training.
            predicted: float32 (n, H), its estimates z^ of n pairs; n may be 0.
            target: float32 (n, H), the teacher's z*.
            labels: Scalar, the loss of the labels.
        """
        terms = {"loss/labels": labels}
        if len(predicted):
            student, teacher = predicted @ predictor.choice_direction, target @ predictor.choice_direction
            terms["loss/embedding"] = embedding_error(predicted, target, predictor.output_scale)
            terms["loss/log_odds"] = log_odds_error(student, teacher)
            if self.weights["loss/kl"]:
                terms["loss/kl"] = reverse_kl(student, teacher)
        return self.weigh(terms)

    def weigh(self, terms: dict[str, Tensor]) -> Losses:
        """Returns terms, by the names of ``weights``, with their weighted sum."""
        return Losses(torch.stack([self.weights[name] * term for name, term in terms.items()]).sum(), terms)
