"""The student in training: an encoder's similarity and the predictor's correction of it, as tensors."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from rabtriever.scoring.examples import Examples
from rabtriever.scoring.predictor import Predictor

NEW_DOCUMENT_SHARE = 0.3  # of the documents whose correction counts half in a step
NEW_DOCUMENT_GAIN = 0.5


class Student(nn.Module):
    """Scores as a retriever will: ``beta <e_q, e_d> + gain_d (w . z^(q, d) - center)``.

    In a training step a share of the documents counts as new, unless documents stay, with half of the correction, so
    that the similarity stays good for documents that come later. So do always the documents that no one teaches to be
    right for a query: labels alone would only push them down.

    Args:
        predictor: The correction.
        beta: Weight of the similarity at the start; 0: there is none.

    Attributes:
        examples: What moves the queries after the training; None during it.
        query_adapter: float32 (H, H), a linear map that adds to the queries after the training; None during it.
    """

    def __init__(self, predictor: Predictor, beta: float = 0.0) -> None:
        super().__init__()
        self.predictor, self.examples = predictor, cast(Examples | None, None)
        self.query_adapter: Tensor | None = None
        self.log_beta = nn.Parameter(torch.tensor(math.log(beta))) if beta else None
        if beta:  # untrained, it is the encoder's ranking
            nn.init.zeros_(predictor.output.weight)
            nn.init.zeros_(predictor.output.bias)

    @property
    def beta(self) -> float:
        """Weight of the similarity."""
        return 0.0 if self.log_beta is None else self.log_beta.exp().item()

    def log_odds(self, z_q: Tensor, z_d: Tensor, gain: Tensor | float = 1.0, center: float = 0.0) -> Tensor:
        """Returns the log-odds float32 (n, k) of states (n, H) and (k, H).

        Args:
            z_q: Query states.
            z_d: Document states.
            gain: gain_d, one for all or (k,).
            center: Subtracted from the correction.
        """
        correction = self.predictor.log_odds(z_q, z_d)
        if self.log_beta is None:
            return correction
        log_odds = self.log_beta.exp() * (z_q @ z_d.T) + gain * (correction - center)
        if self.query_adapter is not None:
            log_odds = log_odds + z_q @ self.query_adapter @ z_d.T
        if self.examples is None:
            return log_odds
        shift = self.examples.shift(z_q.numpy())
        advantage = torch.from_numpy(self.examples.advantage(shift))
        return log_odds + torch.from_numpy(shift) @ z_d.T + advantage[:, None] * newness(gain, len(z_d))


def newness(gain: Tensor | float, n: int) -> Tensor:
    """Returns which documents have the smaller of two gains, float (n,) of 0 and 1; all 0 if there is one gain."""
    gains = torch.as_tensor(gain).expand(n)
    spread = gains.max() - gains.min()
    return (gains.max() - gains) / spread if spread else torch.zeros(n)


def training_gains(taught: Tensor, generator: torch.Generator) -> Tensor:
    """Draws gain_d of a step's documents, float32 (k,); ``taught``, bool (k,), are those right for some query."""
    new = ~taught | (torch.rand(len(taught), generator=generator) < NEW_DOCUMENT_SHARE)
    return torch.where(new, NEW_DOCUMENT_GAIN, 1.0)
