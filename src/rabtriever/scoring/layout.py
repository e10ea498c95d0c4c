"""What the columns of a latent mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ScoreLayout:
    """The columns of query and document latents, in this order; two more columns, the last, are gain and bias.

    With a query latent a and a document latent b, both (dim,)::

        log-odds = sum_inner a_j b_j
                   + b_gain (sum_positive relu(a_j + b_j) - sum_negative relu(a_j + b_j) + a_gain)
                   + a_bias + b_bias

    A document's gain, 0 or more, says how much of the gained term counts for it; a query's is that term's constant.
    Without ReLU columns a score is one inner product, the columns of gain included, and the biases.

    Attributes:
        n_inner: Columns whose products are summed.
        n_positive: ReLU columns that are added.
        n_negative: ReLU columns that are subtracted.
    """

    n_inner: int = 0
    n_positive: int = 0
    n_negative: int = 0

    @property
    def inner(self) -> ScoreLayout:
        """The same latents, read without their ReLU columns."""
        return ScoreLayout(self.n_inner)

    @property
    def n_relu(self) -> int:
        """Number of ReLU columns."""
        return self.n_positive + self.n_negative

    @property
    def width(self) -> int:
        """Number of columns without gain and bias."""
        return self.n_inner + self.n_relu

    @property
    def dim(self) -> int:
        """Numbers of a latent: columns, gain, bias."""
        return self.width + 2

    def to_dict(self) -> dict[str, int]:
        """Returns JSON-ready values."""
        return asdict(self)
