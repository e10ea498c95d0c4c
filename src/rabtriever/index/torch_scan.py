"""The scan in torch, on a CUDA device or without numba: float32 latents in memory, the kernel's contract."""

from __future__ import annotations

from copy import copy

import numpy as np
import torch

from rabtriever.index.quantization import EPS
from rabtriever.kernels import BLOCK
from rabtriever.scoring.layout import ScoreLayout

MAX_HIDDEN_BYTES = 2**28  # hidden units in memory at a time
ROWS_PER_COPY = 2**16


class TorchLatents:
    """Documents on a device.

    Args:
        latents: float32 (n, dim); may be mapped from a file.
        layout: What the latents' columns mean.
        device: Such as ``cuda``.
    """

    def __init__(self, latents: np.ndarray, layout: ScoreLayout, device: str) -> None:
        n, self.layout = len(latents), layout
        self.latents = torch.empty((-(-n // BLOCK) * BLOCK, layout.dim), device=device)
        for start in range(0, n, ROWS_PER_COPY):
            copied = torch.from_numpy(np.array(latents[start : start + ROWS_PER_COPY]))
            self.latents[start : start + len(copied)] = copied
        self.latents[n:] = 0
        self._signs = torch.where(torch.arange(layout.n_relu, device=device) < layout.n_positive, 1.0, -1.0)
        inner, relu, gain, bias = self._split(self.latents)
        sizes = inner.norm(dim=1), relu.abs().sum(1), gain[:, 0], bias.abs()[:, 0]
        self._inner_size, self._relu_size, self._gain, self._offset = (float(x.max()) if n else 0.0 for x in sizes)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.latents.nbytes

    @property
    def inner(self) -> TorchLatents:
        """The same, read without ReLU columns."""
        result = copy(self)
        result.layout, result._relu_size = self.layout.inner, 0.0
        return result

    def candidates(
        self, queries: np.ndarray, live: np.ndarray, k: int, blocks: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Does as :func:`rabtriever.index.scan.candidates`."""
        device = self.latents.device
        vectors = torch.from_numpy(queries).to(device)
        rows = torch.from_numpy(live.view(bool)).to(device).nonzero()[:, 0]
        if blocks is not None:
            wanted = torch.zeros(len(live) // BLOCK, dtype=torch.bool, device=device)
            wanted[torch.from_numpy(blocks).to(device)] = True
            rows = rows[wanted[rows // BLOCK]]
        k = min(k, len(rows))
        best = torch.full((len(queries), 0), -torch.inf, device=device)
        positions = torch.empty((len(queries), 0), dtype=torch.int64, device=device)
        for chunk in rows.split(max(1, MAX_HIDDEN_BYTES // (4 * self.layout.width * len(queries)))):
            scores = torch.cat([best, self._scores(vectors, self.latents[chunk])], dim=1)
            names = torch.cat([positions, chunk.expand(len(queries), -1)], dim=1)
            best, order = scores.topk(min(k, scores.shape[1]), dim=1)
            positions = names.gather(1, order)
        return positions.cpu().numpy(), best.cpu().numpy(), self._errors(queries)

    def _errors(self, queries: np.ndarray) -> np.ndarray:
        """Returns the most that a float32 sum can be wrong by, for each query: float32 (n,)."""
        inner, relu, gained, bias = (part.numpy() for part in self._split(torch.from_numpy(np.abs(queries))))
        size = self._gain * (self._relu_size + gained[:, 0]) + bias[:, 0] + self._offset
        if self.layout.n_relu:
            size += self._gain * relu.sum(1)
        size += np.linalg.norm(inner, axis=1) * self._inner_size
        return (2 * EPS * self.layout.dim * size).astype(np.float32)

    def _scores(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Returns the log-odds float32 (n, k)."""
        a_inner, a_relu, a_gain, a_bias = self._split(queries)
        b_inner, b_relu, b_gain, b_bias = self._split(documents)
        gained = a_gain
        if self.layout.n_relu:
            gained = gained + torch.relu(a_relu[:, None] + b_relu) @ self._signs
        scores = a_bias + b_bias.T + gained * b_gain.T
        return scores + a_inner @ b_inner.T if self.layout.n_inner else scores

    def _split(self, latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
        n_inner = self.layout.n_inner
        return latents[:, :n_inner], latents[:, n_inner:-2], latents[:, -2:-1], latents[:, -1:]
