"""The score of a retriever over an encoder: the encoder's similarity, and what a predictor corrects of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rabtriever.errors import InputError

ZERO_SHOT_BETA, ZERO_SHOT_OFFSET = 20.0, -10.0  # cosines 0 to 1 as log-odds; a calibration replaces them
COSINE_WEIGHT = 30.0  # of an encoder's similarity in a sum with log-odds of rerankers, which count once
ZERO_SHOT_RERANK = 0.5  # encoder and LLM err differently: their sum is better than either


@dataclass(frozen=True)
class Fusion:
    """``log-odds(q, d) = beta <e_q, e_d> + gain_d (w . z^(q, d) - center) + offset``; with z* for z^, the teacher's.

    Attributes:
        beta: Weight of the encoder's similarity; 0 leaves the predictor alone, as in the paper.
        gain: gain_d of documents that the predictor was trained on.
        new_gain: gain_d of all other documents: what was learnt holds less for them.
        center: Subtracted from the correction. It moves documents of a smaller gain, ``(gain - new_gain) center`` up
            against the others, which the predictor has learnt to prefer.
        offset: Added to every score.
        rerank: Share of a reranker's log-odds in the score of a hit that it read; the rest is the retriever's.

    Raises:
        InputError: a negative weight.
    """

    beta: float = 0.0
    gain: float = 1.0
    new_gain: float = 1.0
    offset: float = 0.0
    rerank: float = 1.0
    center: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("beta", "gain", "new_gain", "rerank"):
            if not getattr(self, name) >= 0:
                raise InputError(f"fusion.{name} {getattr(self, name)!r}: must be at least 0", param=name)

    @classmethod
    def zero_shot(cls) -> Fusion:
        """Returns the fusion of an untrained retriever: the encoder's ranking."""
        return cls(ZERO_SHOT_BETA, 0.0, 0.0, ZERO_SHOT_OFFSET, ZERO_SHOT_RERANK)

    def gains(self, texts: Sequence[str], trained_on: np.ndarray) -> np.ndarray:
        """Returns gain_d of documents, float32 (n,).

        Args:
            texts: The documents.
            trained_on: int64, :func:`text_keys` of the documents that the predictor was trained on.
        """
        return np.where(np.isin(text_keys(texts), trained_on), self.gain, self.new_gain).astype(np.float32)


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """Returns 64 bits of each text's SHA-256, int64 (n,): what is remembered of a text that was trained on."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8] for text in texts)
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)
