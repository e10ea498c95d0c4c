"""What dev queries decide: how much of the correction to take, and what the scores mean as probabilities."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rabtriever.rerankers.base import Reranker
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.fusion import ZERO_SHOT_BETA, ZERO_SHOT_OFFSET, ZERO_SHOT_RERANK, Fusion
from rabtriever.training.cached_teacher import CachedTeacher
from rabtriever.training.encoded_data import EncodedData, EncodedQueries
from rabtriever.training.metrics import dev_recall, rank_dev_documents
from rabtriever.training.schedule import CALIBRATION_DEPTH, Schedule
from rabtriever.training.student import Student
from rabtriever.training.targets import Targets

GAINS = (0.0, 1.0, 0.75, 0.5, 0.25)  # of equal ones the first is taken: zero-shot keeps ties


def label_by_teacher(queries: EncodedQueries, teacher: CachedTeacher, n_read: int) -> EncodedQueries:
    """Returns unlabelled queries with the document that the teacher puts first as the relevant one.

    If rerankers belong to the teacher, only ``n_read`` queries are left, whose best documents they read.
    """
    if not len(queries):
        return queries
    if teacher.teacher.rerankers:
        queries = queries.select(torch.arange(min(n_read, len(queries))))
    targets, documents = Targets(teacher.similarities(queries.texts)), torch.arange(len(teacher.documents))
    rows = torch.arange(len(queries))
    if teacher.teacher.rerankers and len(queries):
        best = targets.similarity(rows, documents).topk(min(CALIBRATION_DEPTH, len(documents)), dim=1).indices
        pairs = torch.stack([rows[:, None].expand_as(best), best], dim=2).flatten(0, 1)
        targets.add(pairs, *teacher.read(queries.texts, pairs))
    first = torch.cat([targets.lists(block, documents).argmax(1) for block in rows.split(64)] or [rows])
    return replace(queries, positives=[[document] for document in first.tolist()])


def choose_gain(student: Student, data: EncodedData, new_document_gain: float) -> Fusion:
    """Chooses the gain of the correction by R@1 on dev queries; without any, it counts fully.

    Args:
        student: The trained student.
        data: Its ``dev`` decides.
        new_document_gain: Gain of documents that are not in ``data``, relative to the chosen one.
    """
    if not student.beta:
        return Fusion()
    recalls = {}
    for gain in GAINS if len(data.dev) else ():
        recalls[gain] = dev_recall(partial(student.log_odds, gain=gain), data)["dev/R@1"]
    gain = max(recalls, key=recalls.__getitem__, default=1.0)
    return Fusion(student.beta, gain, new_document_gain * gain, rerank=ZERO_SHOT_RERANK)


def fit_calibrations(
    student: Student, fusion: Fusion, data: EncodedData, teacher: CachedTeacher, schedule: Schedule, n_queries: int
) -> tuple[Calibration, Reranker | None]:
    """Fits probabilities on the student's best documents of dev queries.

    Args:
        student: The trained student.
        fusion: With the gain of the correction.
        data: Its ``dev`` has the labels; those that the teacher gave make probabilities that it would agree.
        teacher: Its first reranker reads some of these documents, if the labels are people's.
        schedule: How many dev queries that are.
        n_queries: Most dev queries to use.

    Returns:
        The student's calibration; the teacher's first reranker with its own.
    """
    dev, n_queries = data.dev, min(n_queries, len(data.dev))
    queries = torch.linspace(0, len(dev) - 1, n_queries).long()
    log_odds, documents = rank_dev_documents(
        partial(student.log_odds, gain=fusion.gain), data, queries, CALIBRATION_DEPTH
    )
    pairs, ranked = torch.stack([queries[:, None].expand_as(documents), documents], dim=2), ~log_odds.isneginf()

    def labels(of: Tensor) -> np.ndarray:
        return np.array([document in dev.positives[query] for query, document in of.tolist()], dtype=bool)

    prior = teacher.calibration if teacher.calls and not student.beta else Calibration()
    if student.beta:  # its log-odds count from the encoder's, whose zero means nothing
        middle = float(log_odds[ranked].mean()) if n_queries else -ZERO_SHOT_OFFSET / ZERO_SHOT_BETA * student.beta
        prior = Calibration(1.0, -middle)
    calibration = Calibration.fit(log_odds[ranked].numpy(), labels(pairs[ranked]), prior)
    rows = torch.linspace(0, n_queries - 1, min(n_queries, schedule.calibrated_queries)).long()
    scored = pairs[rows][ranked[rows]] if data.has_labels else pairs.new_empty(0, 2)
    return calibration, teacher.calibrated_reranker(dev.texts, scored, labels(scored))
