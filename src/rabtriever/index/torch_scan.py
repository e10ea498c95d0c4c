"""The scan on a CUDA device, in torch: float32 latents there, the same contract as the kernel's."""

from __future__ import annotations

import numpy as np
import torch

from rabtriever.index.quantization import EPS
from rabtriever.kernels.scan import BLOCK
from rabtriever.scoring.layout import ScoreLayout

PIECE = 2**28  # bytes of hidden units at a time


class TorchLatents:
    """Documents on a device.

    Args:
        latents: float32 (n, m + 1); may be mapped from a file.
        layout: What the latents' columns mean.
        device: Such as ``cuda``.
    """

    def __init__(self, latents: np.ndarray, layout: ScoreLayout, device: str) -> None:
        n, self.width, self.layout = len(latents), latents.shape[1] - 1, layout
        self.latents = torch.empty((-(-n // BLOCK) * BLOCK, latents.shape[1]), device=device)
        for start in range(0, n, 2**16):
            self.latents[start : min(n, start + 2**16)] = torch.from_numpy(np.array(latents[start : start + 2**16]))
        self.latents[n:] = 0
        self.signs = torch.where(torch.arange(self.width, device=device) < layout.n_positive, 1.0, -1.0)
        values, bias = self.latents[:, :-1], self.latents[:, -1]
        self.size = float((values.norm(dim=1) if not layout.n_relu else values.abs().sum(1)).max()) if n else 0.0
        self.offset = float(bias.abs().max()) if n else 0.0

    def candidates(
        self, queries: np.ndarray, live: np.ndarray, k: int, blocks: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :func:`rabtriever.index.scan.candidates`."""
        device = self.latents.device
        asked = torch.from_numpy(queries).to(device)
        rows = torch.from_numpy(live.view(bool)).to(device).nonzero()[:, 0]
        if blocks is not None:
            wanted = torch.zeros(len(live) // BLOCK, dtype=torch.bool, device=device)
            wanted[torch.from_numpy(blocks).to(device)] = True
            rows = rows[wanted[rows // BLOCK]]
        k = min(k, len(rows))
        best = torch.full((len(queries), 0), -torch.inf, device=device)
        places = torch.empty((len(queries), 0), dtype=torch.int64, device=device)
        for some in rows.split(max(1, PIECE // (4 * self.width * len(queries)))):
            scores = torch.cat([best, self._scores(asked, self.latents[some])], dim=1)
            candidates = torch.cat([places, some.expand(len(queries), -1)], dim=1)
            best, order = scores.topk(min(k, scores.shape[1]), dim=1)
            places = candidates.gather(1, order)
        a = np.abs(queries[:, :-1])
        size = np.linalg.norm(a, axis=1) * self.size if not self.layout.n_relu else a.sum(axis=1) + self.size
        error = 2 * EPS * self.width * (size + np.abs(queries[:, -1]) + self.offset)
        return places.cpu().numpy(), best.cpu().numpy(), error.astype(np.float32)

    def _scores(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        values, bias = documents[:, :-1], documents[:, -1] + queries[:, -1:]
        if not self.layout.n_relu:
            return queries[:, :-1] @ values.T + bias
        return torch.relu(queries[:, None, :-1] + values) @ self.signs + bias
