"""The predictor, from (z_q, z_d) to the teacher's context embedding.

With standardised states q and d it is ``z^ = mean + scale * (W2 act(U q + V d + b1) + b2)``; see
:mod:`rabtriever.scoring.fold` for the equations when only the choice is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rabtriever.errors import InputError, first_line
from rabtriever.kernels import why_no_llvm
from rabtriever.persistence.folder import load_weights
from rabtriever.scoring.fold import Affine, FoldedPredictor

KINDS = ("mlp", "quadratic")
TRAINED_ON, QUERY_ADAPTER = "trained_on", "query_adapter"  # beside the weights: keys of the documents; the retriever's
DOCUMENTS_PER_BLOCK = 512  # whose hidden units of every query are in memory at a time
DOCUMENTS_PER_KERNEL = 16_384  # whose own hidden units are


class Predictor(nn.Module):
    """Two layers over the query's state, with the document's state as the latent (arXiv 2604.23336, section 3).

    Args:
        hidden_size: H, width of the encoder's states.
        hidden_units: m; an index stores as many numbers per document.
        dropout: Share of each side's inputs that is zeroed in training mode.
        kind: ``mlp`` (ReLU, the paper's) or ``quadratic`` (square; its score is an inner product).
        choice_direction: float32 (output_size,), w = w_yes - w_no of the teacher's lm_head; saved with the weights.
            Zeros if None, to be overwritten by ``load_state_dict``.
        output_size: Width of the context embeddings z^; H if None. 1 with w = 1 where no teacher has any: z^ is then
            the correction itself.
    """

    choice_direction: Tensor
    query_mean: Tensor
    query_scale: Tensor
    document_mean: Tensor
    document_scale: Tensor
    output_mean: Tensor
    output_scale: Tensor

    def __init__(
        self,
        hidden_size: int,
        hidden_units: int = 256,
        dropout: float = 0.0,
        kind: str = "mlp",
        choice_direction: Tensor | None = None,
        output_size: int | None = None,
    ) -> None:
        super().__init__()
        self.kind, output_size = kind, output_size or hidden_size
        self.dropout = nn.Dropout(dropout)
        self.query = nn.Linear(hidden_size, hidden_units, bias=False)
        self.document = nn.Linear(hidden_size, hidden_units)
        self.output = nn.Linear(hidden_units, output_size)
        self.register_buffer("choice_direction", torch.zeros(output_size))
        if choice_direction is not None:
            self.choice_direction.copy_(choice_direction)
        for name, size in (("query", hidden_size), ("document", hidden_size), ("output", output_size)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    def to_config(self) -> dict[str, str | int]:
        """Returns the JSON values of ``rabtriever.json`` that :func:`load_predictor` needs."""
        sizes = {"hidden_size": self.hidden_size, "hidden_units": self.hidden_units, "output_size": self.output_size}
        return {"kind": self.kind, **sizes}

    def weights_hash(self) -> str:
        """Returns a hash of the kind and all weights and buffers."""
        digest = hashlib.sha256(self.kind.encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def hidden_size(self) -> int:
        """H, width of the states."""
        return self.query.in_features

    @property
    def hidden_units(self) -> int:
        """Number of hidden units, m."""
        return self.query.out_features

    @property
    def output_size(self) -> int:
        """Width of z^."""
        return self.output.out_features

    def fit_normalization(self, side: str, states: Tensor) -> None:
        """Sets the mean and scale of ``query`` or ``document`` inputs, or of the ``output``, from a sample (n, size).

        They are affine and per side, so the fold stays exact. Of a z^ with more dimensions the rest stay as they are.
        """
        scale = states.std(0, correction=0)
        if not scale.any():  # of a single state
            scale = torch.ones_like(scale)
        size = len(scale)
        getattr(self, f"{side}_mean")[:size] = states.mean(0)
        # Dimensions of almost no variance are not scaled up to the variance of the others.
        getattr(self, f"{side}_scale")[:size] = scale.clamp_min(0.1 * scale.mean()).clamp_min(1e-6)

    def forward(self, z_q: Tensor, z_d: Tensor) -> Tensor:
        """Returns z^, the estimate of the teacher's z*(q, d), from states that broadcast: all float32 (..., H)."""
        hidden = self._activation(self._query_hidden(z_q) + self._document_hidden(z_d))
        return self.output_mean + self.output_scale * self.output(hidden)

    def log_odds(self, z_q: Tensor, z_d: Tensor) -> Tensor:
        """Returns the log-odds float32 (n, k) of states (n, H) and (k, H), differentiably, without computing z^."""
        v, constant = self._fold_output_layer()
        a, score, size = self._query_hidden(z_q), _relu_scores, DOCUMENTS_PER_BLOCK
        if self.kind == "quadratic":
            score, size = _square_scores, DOCUMENTS_PER_KERNEL
        elif a.device.type == "cpu" and why_no_llvm() is None:
            from rabtriever.kernels.relu_scores import relu_scores

            score, size = relu_scores, DOCUMENTS_PER_KERNEL
        return torch.cat([score(a, self._document_hidden(block), v) for block in z_d.split(size)], dim=1) + constant

    @torch.no_grad()
    def fold(self) -> FoldedPredictor:
        """Folds predictor and w into one affine map per side."""
        v, constant = self._fold_output_layer(torch.float64)
        order = torch.argsort(v <= 0, stable=True)
        squares = self.kind == "quadratic"
        size = v.abs()[order].sqrt() if squares else v.abs()[order]

        def side(layer: nn.Linear, mean: Tensor, scale: Tensor) -> Affine:
            weight = layer.weight.double()[order] * size[:, None] / scale.double()
            bias = -weight @ mean.double()
            if layer.bias is not None:
                bias = bias + size * layer.bias.double()[order]
            return Affine(weight.T.float().numpy(), bias.float().numpy())

        return FoldedPredictor(
            query_map=side(self.query, self.query_mean, self.query_scale),
            document_map=side(self.document, self.document_mean, self.document_scale),
            signs=v[order].sign().float().numpy(),
            squares=squares,
            constant=float(constant),
        )

    def _query_hidden(self, z_q: Tensor) -> Tensor:
        return self.query(self.dropout((z_q - self.query_mean) / self.query_scale))

    def _document_hidden(self, z_d: Tensor) -> Tensor:
        return self.document(self.dropout((z_d - self.document_mean) / self.document_scale))

    def _fold_output_layer(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Folds the second layer into w: returns v (m,) and the constant c of ``log-odds = v . act(a + b) + c``."""
        w, scale, mean = (value.to(dtype) for value in (self.choice_direction, self.output_scale, self.output_mean))
        scaled = scale * w
        return self.output.weight.to(dtype).T @ scaled, w @ mean + scaled @ self.output.bias.to(dtype)

    def _activation(self, units: Tensor) -> Tensor:
        return units.square() if self.kind == "quadratic" else torch.relu(units)


def _relu_scores(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """Returns ``sum_j v_j relu(a_j + b_j)``, float32 (n, k), of hidden units (n, m) and (k, m)."""
    return torch.relu(a[:, None] + b) @ v


def _square_scores(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """Returns ``sum_j v_j (a_j + b_j)^2``, as an inner product."""
    return a.square() @ v[:, None] + 2 * (v * a) @ b.T + b.square() @ v


def load_predictor(
    folder: Path, config: Mapping[str, Any]
) -> tuple[Predictor | None, np.ndarray | None, np.ndarray | None]:
    """Loads the predictor of a retriever's folder, the keys of the documents it was trained on, and the query adapter.

    Args:
        folder: The retriever's.
        config: The values of its ``rabtriever.json``.

    Returns:
        None for what there is not; nothing of an untrained retriever.

    Raises:
        InputError: the weights are missing or broken.
    """
    if "predictor" not in config:
        return None, None, None
    weights = load_weights(folder)
    beside = [weights.pop(name, None) for name in (TRAINED_ON, QUERY_ADAPTER)]
    try:
        predictor = Predictor(**config["predictor"])
        predictor.load_state_dict(weights)
    except (RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: a broken retriever ({first_line(error)}); distill it again") from error
    trained_on, query_adapter = (None if tensor is None else tensor.numpy() for tensor in beside)
    return predictor, trained_on, query_adapter
