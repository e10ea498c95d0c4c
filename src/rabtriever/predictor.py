"""The predictor, from (z_q, z_d) to the teacher's context embedding.

With standardised states q and d it is ``z^ = mean + scale * (W2 act(U q + V d + b1) + b2)``; see :mod:`rabtriever.fold`
for what it becomes when only the choice is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rabtriever.fold import Affine, Fold

KINDS = ("mlp", "quadratic")
BLOCK = 512  # documents whose hidden units are held at a time


class Predictor(nn.Module):
    """Two layers over the query's state with the document's as latent (arXiv 2604.23336, section 3).

    Args:
        hidden_size: H, width of the LLM's states.
        width: m, hidden units; what an index stores per document.
        dropout: Share of each side's inputs that is left out in training mode.
        kind: ``mlp`` (ReLU, the paper's) or ``quadratic`` (square), whose score is an inner product.
    """

    query_mean: Tensor
    query_scale: Tensor
    document_mean: Tensor
    document_scale: Tensor
    output_mean: Tensor
    output_scale: Tensor

    def __init__(self, hidden_size: int, width: int = 256, dropout: float = 0.0, kind: str = "mlp") -> None:
        super().__init__()
        self.kind = kind
        self.dropout = nn.Dropout(dropout)
        self.query = nn.Linear(hidden_size, width, bias=False)
        self.document = nn.Linear(hidden_size, width)
        self.output = nn.Linear(width, hidden_size)
        for name in ("query", "document", "output"):
            self.register_buffer(f"{name}_mean", torch.zeros(hidden_size))
            self.register_buffer(f"{name}_scale", torch.ones(hidden_size))

    def standardise(self, side: str, states: Tensor) -> None:
        """Fix the mean and scale of ``query`` or ``document`` inputs or of the ``output`` from a sample (n, H).

        They are affine and per side, so the fold stays exact.
        """
        scale = states.std(0, correction=0)
        if not scale.any():  # a single state tells no spread
            scale = torch.ones_like(scale)
        getattr(self, f"{side}_mean").copy_(states.mean(0))
        # A dimension that hardly moves must not be blown up to the size of the others.
        getattr(self, f"{side}_scale").copy_(scale.clamp_min(0.1 * scale.mean()).clamp_min(1e-6))

    def forward(self, z_q: Tensor, z_d: Tensor) -> Tensor:
        """Predict context embeddings.

        Args:
            z_q: float32 (..., H) query states.
            z_d: float32 (..., H) document states, broadcastable with ``z_q``.

        Returns:
            float32 (..., H), the estimate z^ of the teacher's z*(q, d).
        """
        hidden = self._activation(self.query_part(z_q) + self.document_part(z_d))
        return self.output_mean + self.output_scale * self.output(hidden)

    def query_part(self, z_q: Tensor) -> Tensor:
        """First layer, query side: a (..., m)."""
        return self.query(self.dropout((z_q - self.query_mean) / self.query_scale))

    def document_part(self, z_d: Tensor) -> Tensor:
        """First layer, document side with the bias: b (..., m)."""
        return self.document(self.dropout((z_d - self.document_mean) / self.document_scale))

    def head(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """What the second layer and lm_head's row w (H,) make of the hidden units: v (m,) and the constant c."""
        scaled = self.output_scale.to(w) * w
        weight, bias, mean = (value.to(w) for value in (self.output.weight, self.output.bias, self.output_mean))
        return weight.T @ scaled, w @ mean + scaled @ bias

    def _activation(self, units: Tensor) -> Tensor:
        return units.square() if self.kind == "quadratic" else torch.relu(units)

    def log_odds(self, z_q: Tensor, z_d: Tensor, w: Tensor) -> Tensor:
        """Every query against every document, differentiable, without building z^.

        Args:
            z_q: float32 (n, H).
            z_d: float32 (k, H).
            w: float32 (H,), w_yes - w_no.

        Returns:
            float32 (n, k).
        """
        v, constant = self.head(w)
        queries = self.query_part(z_q)[:, None]
        blocks = [self._activation(queries + self.document_part(block)) @ v for block in z_d.split(BLOCK)]
        return torch.cat(blocks, dim=1) + constant

    @torch.no_grad()
    def fold(self, w: Tensor) -> Fold:
        """Fold the predictor and lm_head's row ``w`` (H,) into one affine map a side."""
        v, constant = self.head(w.double())
        order = torch.argsort(v <= 0, stable=True)
        size = v.abs()[order].sqrt() if self.kind == "quadratic" else v.abs()[order]

        def side(layer: nn.Linear, mean: Tensor, scale: Tensor) -> Affine:
            weight = layer.weight.double()[order] * size[:, None] / scale.double()
            bias = -weight @ mean.double()
            if layer.bias is not None:
                bias = bias + size * layer.bias.double()[order]
            return Affine(weight.T.float().numpy(), bias.float().numpy())

        return Fold(
            units_q=side(self.query, self.query_mean, self.query_scale),
            units_d=side(self.document, self.document_mean, self.document_scale),
            plus=int((v > 0).sum()),
            constant=float(constant),
            inner=self.kind == "quadratic",
        )
