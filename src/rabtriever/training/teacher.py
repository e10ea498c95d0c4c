"""Who teaches: encoders, which score all documents of a query at once, and rerankers, which read pairs; weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from typing_extensions import Unpack

from rabtriever.encoders.base import Encoder
from rabtriever.errors import InputError
from rabtriever.rerankers.base import Reranker
from rabtriever.rerankers.generative import RerankerOptions
from rabtriever.scoring.fusion import COSINE_WEIGHT
from rabtriever.teachers import is_encoder, load_teacher

ENCODER_WEIGHT = 60.0  # of encoders alone: log-odds of a cosine of 1, shared by all of them
OWN_SHARE = 0.25  # of the student's own encoder, relative to the others


@dataclass(frozen=True)
class Teacher:
    """A weighted sum of models; of none, where labels alone teach.

    ``log-odds(q, d) = sum over encoders of weight <e_q, e_d> + sum over rerankers of weight (w . z*(q, d))``; what no
    reranker has read is estimated (:meth:`rabtriever.training.targets.Targets.lists`).

    Attributes:
        encoders: Models with a similarity, each with its weight. They score all documents of a query at once.
        rerankers: Models that read pairs, each with its weight.

    Raises:
        InputError: an encoder without a similarity.
    """

    encoders: Sequence[tuple[Encoder, float]] = ()
    rerankers: Sequence[tuple[Reranker, float]] = ()

    def __post_init__(self) -> None:
        """Checks the encoders."""
        for encoder, _ in self.encoders:
            if not encoder.has_similarity:
                name = encoder.describe()["name"]
                raise InputError(f"teacher {name}: its states have no similarity; let it read pairs", param="teacher")

    def joined_by(self, encoder: Encoder) -> Teacher:
        """Returns the teacher with the student's own encoder in it, which errs otherwise than the others.

        It counts a quarter of the other encoders, or for all where there is no other.
        """
        if any(one.fingerprint == encoder.fingerprint for one, _ in self.encoders) or not (
            self.encoders or self.rerankers
        ):
            return self
        weight = OWN_SHARE * sum(weight for _, weight in self.encoders) or COSINE_WEIGHT
        return replace(self, encoders=[*self.encoders, (encoder, weight)])

    @classmethod
    def of(cls, encoders: Sequence[Encoder] = (), rerankers: Sequence[Reranker] = ()) -> Teacher:
        """Returns a teacher with the default weights, which were measured without labels."""
        total = COSINE_WEIGHT if rerankers else ENCODER_WEIGHT
        return cls([(one, total / len(encoders)) for one in encoders], [(one, 1 / len(rerankers)) for one in rerankers])


def load_teachers(names: Sequence[str], **options: Unpack[RerankerOptions]) -> Teacher:
    """Loads the models of a teacher, with the default weights.

    Args:
        names: Of each, as in :func:`rabtriever.teachers.load_teacher`.
        **options: As there.

    Raises:
        InputError: a name of nothing that can be loaded.
    """
    models = [load_teacher(name, **options) for name in names]
    encoders = [model for model in models if is_encoder(model)]
    return Teacher.of(encoders, [model for model in models if not is_encoder(model)])
