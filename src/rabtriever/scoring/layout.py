"""What the columns of a latent mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ScoreLayout:
    """The columns of query and document latents, in this order; one more column, the last, is the bias.

    With a query latent a and a document latent b, both (width + 1,)::

        log-odds = sum_inner a_j b_j + sum_positive relu(a_j + b_j) - sum_negative relu(a_j + b_j) + a_bias + b_bias

    Attributes:
        n_inner: Columns whose products are summed.
        n_positive: ReLU columns that are added.
        n_negative: ReLU columns that are subtracted.
    """

    n_inner: int = 0
    n_positive: int = 0
    n_negative: int = 0

    @property
    def n_relu(self) -> int:
        """Number of ReLU columns."""
        return self.n_positive + self.n_negative

    @property
    def width(self) -> int:
        """Number of columns without the bias."""
        return self.n_inner + self.n_relu

    @property
    def dim(self) -> int:
        """Number of columns with gain and bias."""
        return self.width + 2

    def to_dict(self) -> dict[str, int]:
        """Returns JSON-ready values."""
        return asdict(self)
