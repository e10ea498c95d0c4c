"""Dividing a distillation's teacher calls and optimiser steps over its rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rabtriever.scoring.calibration import LIST_DEPTH
from rabtriever.training.config import DistillConfig

MAX_CALIBRATION_SHARE = 0.1  # of the teacher calls
MIN_STEPS, MAX_STEPS, STEPS_PER_QUERY = 1600, 6000, 0.35  # where no number is given
WARMUP_SHARE, DECAY_SHARE = 0.05, 0.25  # of the steps


@dataclass(frozen=True)
class Schedule:
    """Sizes of a distillation.

    Attributes:
        training_calls: Most pairs that are trained on; the rest of the budget is for calibration.
        calibrated_queries: Dev queries whose best documents the teacher scores for its calibration.
        queries_per_round: Train queries whose documents are ranked anew in a round.
        pairs_per_query: Pairs of such a query.
        rounds: How often the student ranks anew.
        steps_per_round: Optimiser steps after each round's teacher calls.
        decay_steps: Further steps after the last round's.
    """

    training_calls: int
    calibrated_queries: int
    queries_per_round: int
    pairs_per_query: int
    rounds: int
    steps_per_round: int
    decay_steps: int

    @classmethod
    def of(
        cls, config: DistillConfig, n_queries: int, n_documents: int, n_dev_queries: int, budget: int, readings: int = 1
    ) -> Schedule:
        """Returns the sizes for a data set.

        The ``budget`` of teacher calls is never exceeded, ``readings`` of the best documents of dev queries included.
        """
        depth = readings * min(LIST_DEPTH, n_documents)
        calibrated = min(config.calibration_queries, n_dev_queries, int(MAX_CALIBRATION_SHARE * budget) // depth)
        calls = budget - calibrated * depth
        pairs = min(n_documents, max(config.pairs_per_query, math.ceil(calls / config.rounds / n_queries)))
        queries = min(n_queries, max(1, math.ceil(calls / config.rounds / pairs)))
        steps = config.steps or round(min(MAX_STEPS, max(MIN_STEPS, STEPS_PER_QUERY * n_queries)))
        decay = round(DECAY_SHARE * steps)
        steps = max(1, (steps - decay) // config.rounds)
        return cls(calls, calibrated, queries, pairs, config.rounds, steps, decay)

    @property
    def total_steps(self) -> int:
        """Steps of a training that no early stop ends."""
        return self.rounds * self.steps_per_round + self.decay_steps

    def end_after(self, rounds: int) -> Schedule:
        """Returns the schedule of a training that ends after so many rounds."""
        return replace(self, rounds=rounds)

    def learning_rate_factor(self, step: int) -> float:
        """Returns the share of the peak learning rate at a step.

        It is constant through all rounds, so that the last round's calls teach as much as the first's, and decays by a
        cosine afterwards, over all pairs.
        """
        start = self.steps_per_round * self.rounds
        warmup = max(1, round(WARMUP_SHARE * self.total_steps))
        if step < start or not self.decay_steps:
            return min(1.0, (step + 1) / warmup)
        return 0.5 * (1 + math.cos(math.pi * (step - start) / self.decay_steps))
