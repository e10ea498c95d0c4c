"""What dev queries decide: how much of the correction to take, and what the scores mean as probabilities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rabtriever.rerankers.base import Reranker
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.fusion import Fusion
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
    if not len(data.dev):
        return Fusion(student.beta, 1.0, new_document_gain, rerank=RERANK_SHARE)
    recalls = {gain: dev_recall(lambda q, d, g=gain: student.log_odds(q, d, g), data)["dev/R@1"] for gain in GAINS}
    gain = max(GAINS, key=recalls.__getitem__)
    return Fusion(student.beta, gain, new_document_gain * gain, rerank=RERANK_SHARE)


def fit_calibrations(
    student: Student, fusion: Fusion, data: EncodedData, teacher: CachedTeacher, schedule: Schedule
) -> tuple[Calibration, Reranker | None]:
    """Fits the student's calibration and its reranker's on the student's best documents of dev queries."""
