"""Orthogonal matrices that spread what stands out over all dimensions, so that eight bits hold it.

An LLM's residual stream has a few huge dimensions; quantised as it is, they leave no codes for the rest. Turned by an
orthogonal Q they are gone, and since RMS norm commutes with Q (its weights folded into what reads it), the turned LLM
computes the same function (QuaRot, arXiv 2404.00456).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rabtriever.kernels import LANES


def orthogonal(size: int) -> Tensor:
    """A fixed flat orthogonal matrix, float32 (size, size): the Kronecker product of two Hartley matrices, signs mixed.

    No entry exceeds 2 / sqrt(size) in magnitude.
    """
    small = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0)
    signs = torch.randint(0, 2, (size, 1), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (signs * torch.kron(_hartley(small), _hartley(size // small))).float()


def hadamard(size: int) -> Tensor:
    """Hadamard's matrix divided by sqrt(size), a power of two: float32 (size, size)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


def mixing_block(size: int) -> int:
    """How many neighbouring groups of 16 units :func:`mix_columns` mixes: the largest power of two that divides."""
    groups = size // LANES
    return groups & -groups


def mix_columns(weight: Tensor) -> Tensor:
    """What a layer behind the kernel's mixed units must have for weights: (out, size) -> (out, size)."""
    block = mixing_block(weight.shape[1])
    parts = weight.view(len(weight), -1, block, LANES)
    # The kernel's butterflies do not divide by sqrt(block); the inverse then divides by block.
    return torch.einsum("ogbl,bc->ogcl", parts, hadamard(block) / math.sqrt(block)).reshape(weight.shape)


def _hartley(size: int) -> Tensor:
    k = torch.arange(size, dtype=torch.float64)
    angles = 2 * math.pi * torch.outer(k, k) / size
    return (angles.cos() + angles.sin()) / math.sqrt(size)
