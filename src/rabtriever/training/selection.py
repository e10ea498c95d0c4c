"""What labels decide: weights of similarity and correction, and what the scores mean as probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rabtriever.rerankers.base import Reranker
from rabtriever.scoring.calibration import LIST_DEPTH, Calibration
from rabtriever.scoring.fusion import ZERO_SHOT_BETA, ZERO_SHOT_OFFSET, ZERO_SHOT_RERANK, Fusion
from rabtriever.scoring.refusal import Refusal
from rabtriever.training.cached_teacher import CachedTeacher
from rabtriever.training.encoded_data import EncodedData, EncodedQueries
from rabtriever.training.metrics import dev_recall, rank_dev_documents
from rabtriever.training.sampling import rank_documents
from rabtriever.training.schedule import Schedule
from rabtriever.training.student import Student
from rabtriever.training.targets import Targets

WEAK_BETA, JUDGED_BETA = 1.0, 5.0
BETA_QUERIES, QUERIES_PER_BLOCK = 1000, 64
GAINS = (1.0, 0.75, 0.5, 0.25)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MIN_RERANKED = 30  # queries that decide about a reranker's share


def tolerance(n_queries: int) -> float:
    """Returns the difference of R@1 over so many queries that is noise: about half a standard error."""
    return 0.25 / math.sqrt(max(1, n_queries))


def label_by_teacher(queries: EncodedQueries, teacher: CachedTeacher, n_read: int) -> EncodedQueries:
    """Returns unlabelled queries with the document that the teacher puts first as the relevant one.

    If rerankers belong to the teacher, only ``n_read`` queries are left, whose best documents they read. A query's own
    document is left out.
    """
    if not len(queries):
        return queries
    if teacher.teacher.rerankers:
        queries = queries.select(torch.arange(min(n_read, len(queries))))
    targets, documents = Targets(teacher.similarities(queries.texts)), torch.arange(len(teacher.documents))
    rows = torch.arange(len(queries))

    def best(score: Callable[[Tensor, Tensor], Tensor], count: int) -> tuple[Tensor, Tensor]:
        return rank_documents(lambda block: score(block, documents), rows, len(documents), count, queries.own_pairs)

    if teacher.teacher.rerankers and len(queries):
        values, found = best(targets.similarity, LIST_DEPTH)
        pairs = torch.stack([rows[:, None].expand_as(found), found], dim=2)[~values.isneginf()]
        targets.add(pairs, *teacher.read(queries.texts, pairs))
    _, first = best(targets.lists, 1)
    return replace(queries, positives=[[document] for document in first[:, 0].tolist()])


def choose_beta(train: EncodedQueries, z_d: Tensor, among: Tensor) -> float:
    """Returns the weight beta that the similarity starts a training with: a small one where it would only be noise.

    That is where the labels are less likely by ``softmax(beta <e_q, e_d>)``, even with a quarter of the usual beta,
    than if all documents were equal. Of several right documents, any may have the likelihood.

    Args:
        train: A thousand of its labelled queries decide; without any, the weight is the usual one.
        z_d: float32 (k, H), embeddings of the documents.
        among: bool (k,), documents that compete.
    """
    labelled, gained = train.labelled, 0.0
    rows = labelled[torch.linspace(0, max(0, len(labelled) - 1), min(len(labelled), BETA_QUERIES)).long()]
    for block in map(train.select, rows.split(QUERIES_PER_BLOCK) if len(rows) else ()):
        similarities = (block.states @ z_d.T).masked_fill(~among, float("-inf"))
        similarities[tuple(block.own_pairs.T)] = float("-inf")
        log_shares = torch.log_softmax(JUDGED_BETA * similarities, dim=1)
        competing = (~similarities.isneginf()).sum(1).tolist()
        for row, relevant, count in zip(log_shares, block.positives, competing, strict=True):
            gained += row[relevant].logsumexp(0).item() - math.log(len(relevant) / count)
    return ZERO_SHOT_BETA if gained >= 0 else WEAK_BETA


def choose_gain(student: Student, data: EncodedData, taught: Tensor, new_document_gain: float) -> Fusion:
    """Chooses the gain of the correction by R@1 on dev queries; without any, it counts fully.

    It is the greatest that is as good as the best, and 0 if none is better than the encoder's ranking.

    Args:
        student: The trained student.
        data: Its ``dev`` decides.
        taught: bool (k,), documents that were right for some train query.
        new_document_gain: Gain of other documents, and of those that come later, relative to the chosen one.
    """
    if not student.beta:
        return Fusion()
    gain = GAINS[0]
    if len(data.dev):
        relative = torch.where(taught, 1.0, new_document_gain)
        recalls = {g: dev_recall(partial(student.log_odds, gain=g * relative), data)["dev/R@1"] for g in (*GAINS, 0.0)}
        least = max(recalls.values()) - tolerance(len(data.dev))
        good = [gain for gain in GAINS if recalls[gain] > recalls[0.0] and recalls[gain] >= least]
        gain = good[0] if good else 0.0
    return Fusion(student.beta, gain, new_document_gain * gain, rerank=ZERO_SHOT_RERANK)


class Calibrated(NamedTuple):
    """What dev queries made of a student.

    Attributes:
        fusion: With the reranker's share.
        calibration: The student's.
        refusal: When nothing fits, if people's labels say which requests something fits.
        reranker: The teacher's first reranker with its own calibration.
        reranked: The calibration of hits that it read, by their fused log-odds; None if it read none.
    """

    fusion: Fusion
    calibration: Calibration
    refusal: Refusal
    reranker: Reranker | None
    reranked: Calibration | None


def fit_calibrations(
    student: Student,
    fusion: Fusion,
    taught: Tensor,
    data: EncodedData,
    teacher: CachedTeacher,
    schedule: Schedule,
    fits: bool,
) -> Calibrated:
    """Fits probabilities on the student's best documents of dev queries, and how much a reranker of them counts.

    Args:
        student: The trained student.
        fusion: With the gains of the correction.
        taught: bool (k,), documents that were right for some train query.
        data: Its ``dev`` has the labels; those that the teacher gave make probabilities that it would agree.
        teacher: Its first reranker reads some of these documents, if the labels are people's.
        schedule: How many dev queries that are.
        fits: Whether to fit anything; the calibrations stay as they are without.
    """
    dev, n_queries = data.dev, len(data.dev) if fits else 0
    queries = torch.arange(n_queries)
    log_odds, documents = rank_dev_documents(
        partial(student.log_odds, gain=torch.where(taught, fusion.gain, fusion.new_gain), center=fusion.center),
        data,
        queries,
        LIST_DEPTH,
    )
    pairs, ranked = torch.stack([queries[:, None].expand_as(documents), documents], dim=2), ~log_odds.isneginf()

    def labels(of: Tensor) -> np.ndarray:
        return np.array([document in dev.positives[query] for query, document in of.tolist()], dtype=bool)

    prior = teacher.calibration if teacher.calls and not student.beta else Calibration()
    if student.beta:  # its log-odds count from the encoder's, whose zero means nothing
        middle = float(log_odds[ranked].mean()) if n_queries else -ZERO_SHOT_OFFSET / ZERO_SHOT_BETA * student.beta
        prior = Calibration(1.0, -middle)
    calibration = Calibration.fit(log_odds.numpy(), labels(pairs.flatten(0, 1)).reshape(log_odds.shape), prior)
    rows = torch.linspace(0, n_queries - 1, min(n_queries, schedule.calibrated_queries)).long()
    scored = pairs[rows][ranked[rows]] if data.has_labels else pairs.new_empty(0, 2)
    reranker, reranked = teacher.calibrated_reranker(dev.texts, scored, labels(scored))
    after = None
    if fusion.beta and reranker and len(rows) >= MIN_RERANKED and len(scored) == documents[rows].numel():
        converted = torch.from_numpy(calibration.convert(reranked.numpy(), reranker.calibration))
        own, converted = log_odds[rows], converted.view_as(log_odds[rows])
        right = torch.from_numpy(labels(scored)).view_as(own)
        share = choose_share(own, converted, right)
        fusion, fused = replace(fusion, rerank=share), (1 - share) * own + share * converted
        after = Calibration.fit(fused.numpy(), right.numpy(), calibration)
    refusal = Refusal.fit(log_odds[:, 0].numpy()) if data.has_labels and n_queries else Refusal()
    return Calibrated(fusion, calibration, refusal, reranker, after)


def choose_share(student: Tensor, reranker: Tensor, right: Tensor) -> float:
    """Chooses the reranker's share in the log-odds of hits by R@1; of equal ones, the nearest to the default.

    Args:
        student: Log-odds float (n, k) of n queries' best documents.
        reranker: Its log-odds of them, on the student's scale.
        right: bool (n, k), whether they are relevant.
    """

    def recall(share: float) -> float:
        best = ((1 - share) * student + share * reranker).argmax(1)
        return float(right[torch.arange(len(right)), best].float().mean())

    return max(sorted(SHARES, key=lambda share: abs(share - ZERO_SHOT_RERANK)), key=recall)
