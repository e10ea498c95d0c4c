"""The losses: functions of tensors that return scalars."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rabtriever.training.encoded_data import EncodedQueries

MAX_CANDIDATES = 1024  # documents of a softmax over labels


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

    ``reference`` are the log-odds of the LLM without its adapter; ``beta`` is the strength of the pull towards them.
    """
    sign = positive.to(log_odds.dtype) * 2 - 1
    return -F.logsigmoid(beta * sign * (log_odds - reference)).mean()


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Computes KL(student || teacher) over the two choices (arXiv 2604.23336); the forward KL with arguments exchanged.

    Returns:
        Scalar, nats, mean over pairs of log-odds float (n,).
    """
    yes = student.sigmoid()
    log_yes = F.logsigmoid(student) - F.logsigmoid(teacher)
    log_no = F.logsigmoid(-student) - F.logsigmoid(-teacher)
    return (yes * log_yes + (1 - yes) * log_no).mean()


def log_odds_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Computes the squared error of the log-odds, in units of the teacher's spread over the batch.

    Unlike a KL it does not saturate: how far apart two hopeless documents are still counts.

    Returns:
        Scalar of log-odds float (n,); 1 is the error of the teacher's mean, if the teacher's variance is above 1.
    """
    return (student - teacher).square().mean() / teacher.var(correction=0).clamp_min(1.0)


def decorrelation(student: Tensor, teacher: Tensor) -> Tensor:
    """Computes one minus the correlation of log-odds (n,): blind to scale and offset, settled in distillation."""
    return 1 - F.cosine_similarity(student - student.mean(), teacher - teacher.mean(), dim=0)


def embedding_error(predicted: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Computes the JEPA term: squared error of the context embedding, each dimension in units of its own spread.

    The predictor's z^ and the teacher's z* are (n, H); the scale (H,), z*'s standard deviation over pairs, makes 1 the
    error of the mean of z*.
    """
    return ((predicted - target) / scale).square().mean()


def list_loss(student: Tensor, teacher: Tensor, left_out: Tensor) -> Tensor:
    """Computes the cross-entropy of the student's softmax over documents with the teacher's.

    Args:
        student: Log-odds float (n, k) of queries and documents.
        teacher: The same.
        left_out: bool (n, k), pairs of a query and its own document.

    Returns:
        Scalar, mean over queries.
    """
    shares = teacher.masked_fill(left_out, float("-inf")).softmax(1)
    return -(shares * student.masked_fill(left_out, -1e9).log_softmax(1)).sum(1).mean()


def label_loss(
    score: Callable[[Tensor, Tensor], Tensor],
    queries: EncodedQueries,
    documents: Tensor,
    generator: torch.Generator,
    encoder: Callable[[Tensor, Tensor], Tensor] | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Computes the softmax cross-entropy of labelled queries over documents (a sample of them, if very many).

    A query's own document is no negative. The loss is 0 if no query is labelled.

    Args:
        score: Maps states of queries (n, H) and positions of documents int64 (k,) to log-odds (n, k).
        queries: Train queries.
        documents: int64 (m,) ascending, positions of the documents that compete; the relevant ones are among them.
        generator: Draws the sample.
        encoder: Log-odds by the encoder's similarity alone, or of teachers, as ``score``.
        smoothing: Share of the target that is the softmax of these: label smoothing, with their ranking instead of the
            uniform distribution, so that labels do not make the student certain against it.

    Returns:
        Scalar, mean over labelled queries.
    """
    queries = queries.select(queries.labelled)
    if not len(queries):
        return queries.states.new_zeros(())
    labels = torch.tensor([(row, d) for row, of_query in enumerate(queries.positives) for d in of_query])
    rows, relevant = labels.T.contiguous()
    candidates = documents
    if len(documents) > MAX_CANDIDATES:
        sampled = documents[torch.randperm(len(documents), generator=generator)[:MAX_CANDIDATES]]
        candidates = torch.cat([sampled, relevant]).unique()
    positive = torch.zeros(len(queries), len(candidates), dtype=torch.bool)
    positive[rows, torch.searchsorted(candidates, relevant)] = True
    own = queries.own_documents[:, None] == candidates
    log_odds = score(queries.states, candidates)
    own, positive = own.to(log_odds.device), positive.to(log_odds.device)
    loss = listwise(log_odds.masked_fill(own, float("-inf")), positive)
    if encoder is None or not smoothing:
        return loss
    return (1 - smoothing) * loss + smoothing * list_loss(log_odds, encoder(queries.states, candidates), own)
