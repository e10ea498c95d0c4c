"""What to watch while distilling: a predictor that ignores the document looks fine by its loss alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rabtriever.scoring.predictor import Predictor


class Watched(Protocol):
    """What is looked at of a run."""

    predictor: Predictor
    w: Tensor
    z_q: Tensor
    z_d: Tensor
    pairs: Tensor
    targets: Tensor


class Diagnostics:
    """Measures a student between rounds.

    Args:
        dev_states: float32 (n, H), z_q of development queries, or None.
        dev_positives: Their judged documents' positions.
    """

    def __init__(self, dev_states: Tensor | None, dev_positives: Sequence[Sequence[int]]) -> None:
        self.dev_states, self.dev_positives = dev_states, dev_positives
        self.teacher_calls = 0  # pairs the student was taught on
        self.new_calls = 0  # those that were not in the cache

    @torch.no_grad()
    def on_fresh_pairs(self, run: Watched, fresh: Tensor) -> dict[str, float]:
        """Agreement with the teacher on pairs not trained on yet: a free held-out sample."""
        if len(fresh) < 3:
            return {}
        (q, d), target = run.pairs[fresh].T, run.targets[fresh]
        predicted = run.predictor(run.z_q[q], run.z_d[d]) @ run.w
        pearson = torch.corrcoef(torch.stack([predicted, target @ run.w]))[0, 1].item()
        return {"fresh_pearson": pearson} if math.isfinite(pearson) else {}

    @torch.no_grad()
    def of_student(self, run: Watched) -> dict[str, float]:
        """Dev R@1, the copy baselines and the spread over documents, on a sample of 256 scored pairs.

        Errors are squared, in units of each dimension's spread, like the loss: ``copy_query`` predicts z^ = z_q;
        ``mean_document`` averages z^ over documents, so the pair's own error must lie clearly below it; ``spread`` is
        the standard deviation of z^ over documents for one query, against that of z* over pairs.
        """
        line: dict[str, float] = {"teacher_calls": self.teacher_calls, "new_teacher_calls": self.new_calls}
        if len(run.pairs):
            line |= self._of_pairs(run)
        if self.dev_states is not None:
            line["dev_R@1"] = self._hits(run)
        return line

    def _of_pairs(self, run: Watched) -> dict[str, float]:
        rows = torch.linspace(0, len(run.pairs) - 1, min(256, len(run.pairs))).long()
        (q, d), target = run.pairs[rows].T, run.targets[rows]
        some = run.z_d[torch.linspace(0, len(run.z_d) - 1, min(32, len(run.z_d))).long()]
        everywhere = torch.stack([run.predictor(run.z_q[q], document) for document in some])

        def error(predicted: Tensor) -> float:
            return ((predicted - target) / run.predictor.output_scale).square().mean().item()

        return {
            "pair_error": error(run.predictor(run.z_q[q], run.z_d[d])),
            "copy_query": error(run.z_q[q]),
            "mean_document": error(everywhere.mean(0)),
            "spread": (everywhere.std(0) / run.predictor.output_scale).mean().item(),
        }

    def _hits(self, run: Watched) -> float:
        assert self.dev_states is not None
        hits = 0
        for start in range(0, len(self.dev_states), 64):
            scores = run.predictor.log_odds(self.dev_states[start : start + 64], run.z_d, run.w)
            best = scores.argmax(1).tolist()
            hits += sum(top in right for top, right in zip(best, self.dev_positives[start : start + 64], strict=True))
        return hits / len(self.dev_states)
