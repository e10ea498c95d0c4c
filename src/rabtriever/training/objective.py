"""What a student is trained for: near the teacher's embedding, near its choice, and right by the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rabtriever.scoring.predictor import Predictor
from rabtriever.training.config import DistillConfig
from rabtriever.training.losses import embedding_error, label_loss, log_odds_error, policy_kl, reverse_kl, vocabulary_kl

PAIRS, QUERIES = 256, 64  # scored pairs and labelled queries a step
VOCABULARY_PAIRS = 32  # of them for a KL over the vocabulary, whose tens of thousands of logits are what costs


class Objective:
    """The loss of a step, from what the teacher has said so far.

    Args:
        settings: Weights, and which divergence.
        w: float32 (H,), w_yes - w_no.
        lm_head: float (V, H), for the divergence over the vocabulary.
        chance: Source of chance.
    """

    def __init__(self, settings: DistillConfig, w: Tensor, lm_head: Tensor, chance: torch.Generator) -> None:
        self.settings, self.w, self.lm_head, self.chance = settings, w, lm_head, chance

    def __call__(
        self,
        predictor: Predictor,
        z_q: Tensor,
        z_d: Tensor,
        pairs: Tensor,
        targets: Tensor,
        positives: Sequence[Sequence[int]],
    ) -> tuple[Tensor, dict[str, float]]:
        """One step's loss on a batch of scored pairs and, with labels, on a batch of labelled queries.

        Args:
            predictor: In training.
            z_q: float32 (n, H) query states.
            z_d: float32 (k, H) document states.
            pairs: int64 (p, 2) of (query, document), the pairs scored so far; may be empty.
            targets: float32 (p, H), the teacher's context embeddings of them.
            positives: Positions of the n queries' judged documents; all empty without qrels.

        Returns:
            The loss, and its parts by name.
        """
        settings = self.settings
        error = divergence = labels = torch.zeros((), device=z_q.device)
        if len(pairs):
            rows = self._batch(pairs)
            (q, d), target = pairs[rows].T, targets[rows]
            predicted = predictor(z_q[q], z_d[d])
            error = embedding_error(predicted, target, predictor.output_scale)
            divergence = self._divergence(predicted, target, q)
        if settings.label_weight and any(positives):
            rows = torch.randint(len(z_q), (QUERIES,), generator=self.chance)
            right = [positives[row] for row in rows.tolist()]
            labels = label_loss(predictor, z_q[rows], z_d, right, self.w, self.chance)
        loss = settings.mse_weight * error + settings.kl_weight * divergence + settings.label_weight * labels
        return loss, {"mse": error.item(), "divergence": divergence.item(), "label_loss": labels.item()}

    def _batch(self, pairs: Tensor) -> Tensor:
        rows = torch.randint(len(pairs), (PAIRS,), generator=self.chance)
        if self.settings.divergence == "documents":  # whole queries, about as many pairs
            some = pairs[rows[: PAIRS // self.settings.pairs], 0]
            rows = torch.isin(pairs[:, 0], some).nonzero().flatten()
        return rows

    def _divergence(self, predicted: Tensor, target: Tensor, query: Tensor) -> Tensor:
        kind = self.settings.divergence
        if kind == "vocabulary":
            return vocabulary_kl(predicted[:VOCABULARY_PAIRS], target[:VOCABULARY_PAIRS], self.lm_head)
        student, teacher = predicted @ self.w, target @ self.w
        if kind == "documents":
            return policy_kl(student, teacher, query.to(student.device))
        if kind == "squares":
            return log_odds_error(student, teacher)
        return reverse_kl(teacher, student) if kind == "forward" else reverse_kl(student, teacher)
