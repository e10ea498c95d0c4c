"""The losses, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rabtriever.scoring.predictor import Predictor

MAX_CANDIDATES = 1024  # documents of a softmax over labels


def listwise(log_odds: Tensor, positive: Tensor) -> Tensor:
    """Softmax cross-entropy over the documents of a query.

    Args:
        log_odds: float (n_queries, n_documents).
        positive: bool, the same shape; the documents judged right.

    Returns:
        Scalar: mean over queries of -log of the mass on their positives. Queries without one are left out.
    """
    rows = positive.any(1)
    right = log_odds.masked_fill(~positive, float("-inf"))
    return (log_odds[rows].logsumexp(1) - right[rows].logsumexp(1)).mean()


def pointwise(log_odds: Tensor, positive: Tensor) -> Tensor:
    """Binary cross-entropy of the choice (SFT on the choice tokens, restricted to the two), mean over pairs."""
    return F.binary_cross_entropy_with_logits(log_odds, positive.to(log_odds.dtype))


def dpo(log_odds: Tensor, reference: Tensor, positive: Tensor, beta: float = 0.1) -> Tensor:
    """Direct preference optimisation of the right choice over the wrong one (LaHoRe, arXiv 2412.16615).

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
    """KL(student || teacher) over the two choices, from log-odds; with the arguments exchanged, the forward KL.

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
    """Squared error of the log-odds, in units of the teacher's spread over the batch.

    Unlike a KL it does not saturate: how far apart two hopeless documents are still counts.

    Args:
        student: float (n,) log-odds.
        teacher: float (n,) log-odds.

    Returns:
        Scalar; 1 is what the mean of the teacher's would give, if they spread by more than one.
    """
    return (student - teacher).square().mean() / teacher.var(correction=0).clamp_min(1.0)


def decorrelation(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the correlation of log-odds: blind to scale and offset, which distillation settles later.

    Args:
        student: float (n,) log-odds.
        teacher: float (n,) log-odds.

    Returns:
        Scalar in [0, 2].
    """
    return 1 - F.cosine_similarity(student - student.mean(), teacher - teacher.mean(), dim=0)


def embedding_error(predicted: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """The JEPA term: squared error of the context embedding, each dimension in units of its own spread.

    Args:
        predicted: float (n, H), the predictor's z^.
        target: float (n, H), the teacher's z*.
        scale: float (H,), standard deviation of z* over pairs.

    Returns:
        Scalar; 1 is what predicting the mean of z* would give.
    """
    return ((predicted - target) / scale).square().mean()


def vocabulary_kl(predicted: Tensor, target: Tensor, lm_head: Tensor) -> Tensor:
    """KL(student || teacher) over all next tokens, from context embeddings.

    Args:
        predicted: float (n, H), the predictor's z^.
        target: float (n, H), the teacher's z*.
        lm_head: float (V, H).

    Returns:
        Scalar, nats, mean over pairs.
    """
    student, teacher = (F.log_softmax(states @ lm_head.T, dim=1) for states in (predicted, target))
    return (student.exp() * (student - teacher)).sum(1).mean()


def policy_kl(student: Tensor, teacher: Tensor, query: Tensor) -> Tensor:
    """KL(student || teacher) over the scored documents of each query: between the policies themselves.

    Args:
        student: float (n,) log-odds of pairs.
        teacher: float (n,) log-odds.
        query: int64 (n,), which query a pair belongs to.

    Returns:
        Scalar, nats, mean over queries.
    """
    names, group = torch.unique(query, return_inverse=True)

    def log_softmax(values: Tensor) -> Tensor:
        top = values.new_full((len(names),), float("-inf")).scatter_reduce(0, group, values.detach(), "amax")
        mass = values.new_zeros(len(names)).index_add(0, group, (values - top[group]).exp())
        return values - (top + mass.log())[group]

    mine, theirs = log_softmax(student), log_softmax(teacher)
    return (mine.exp() * (mine - theirs)).sum() / len(names)


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
