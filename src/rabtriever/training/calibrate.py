"""Calibrations of student and teacher from the labels of development queries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.encoded_data import EncodedData
from rabtriever.training.sampling import rank_documents
from rabtriever.training.schedule import CALIBRATION_DEPTH


def fit_calibrations(
    predictor: Predictor,
    data: EncodedData,
    n_queries: int,
    n_scored: int,
    priors: tuple[Calibration, Calibration],
    score: Callable[[Tensor], np.ndarray],
) -> tuple[Calibration, Calibration]:
    """Fits calibrations on the student's best documents of development queries.

    Args:
        predictor: The student.
        data: Documents and development queries.
        n_queries: Development queries to use, spread evenly over all.
        n_scored: Queries of these that the teacher scores, too.
        priors: The student's and the teacher's calibration where labels are few; without any they are returned.
        score: Returns the teacher's log-odds of pairs int64 (n, 2) of (development query, document).

    Returns:
        The student's and the teacher's calibration.
    """
    dev, n_queries = data.dev, min(n_queries, len(data.dev))
    queries = torch.linspace(0, len(dev) - 1, n_queries).long()
    log_odds, documents = rank_documents(
        lambda rows: predictor.log_odds(dev.states[rows], data.z_d),
        queries,
        len(data.documents),
        CALIBRATION_DEPTH,
        dev.own_pairs,
    )
    pairs = torch.stack([queries[:, None].expand_as(documents), documents], dim=2)

    def labels(of: Tensor) -> np.ndarray:
        return np.array([document in dev.positives[query] for query, document in of.tolist()], dtype=bool)

    ranked = ~log_odds.isneginf()
    student = Calibration.fit(log_odds[ranked].numpy(), labels(pairs[ranked]), priors[0])
    if not n_scored:
        return student, priors[1]
    rows = torch.linspace(0, n_queries - 1, n_scored).long()
    scored = pairs[rows][ranked[rows]]
    return student, Calibration.fit(score(scored), labels(scored), priors[1])
