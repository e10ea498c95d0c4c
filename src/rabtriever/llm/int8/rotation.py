"""Orthogonal matrices that spread outliers over all dimensions, so that eight bits hold them.

An LLM's residual stream has a few huge dimensions; quantised as it is, they leave no codes for the rest. Rotated by an
orthogonal Q they are gone, and since RMS norm commutes with Q (its weights folded into what reads it), the rotated LLM
computes the same function (QuaRot, arXiv 2404.00456).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rabtriever.kernels import LANES


def orthogonal(size: int) -> Tensor:
    """Returns a fixed flat orthogonal matrix, float32 (size, size).

    It is the Kronecker product of two Hartley matrices, signs mixed. No entry exceeds 2 / sqrt(size) in magnitude.
    """
    small = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0)
    signs = torch.randint(0, 2, (size, 1), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (signs * torch.kron(_hartley(small), _hartley(size // small))).float()


def hadamard(size: int) -> Tensor:
    """Returns Hadamard's matrix divided by sqrt(size), a power of two: float32 (size, size)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix / math.sqrt(size)


def hadamard_block_size(size: int) -> int:
    """Returns how many neighbouring groups of 16 units are mixed: the largest power of two that divides them all."""
    groups = size // LANES
    return groups & -groups


def fold_hadamard(weight: Tensor) -> Tensor:
    """Returns the weights (out, size) of a layer that reads units mixed by the kernel, as if they were not mixed."""
    block = hadamard_block_size(weight.shape[1])
    parts = weight.view(len(weight), -1, block, LANES)
    # The kernel's butterflies do not divide by sqrt(block); the inverse then divides by block.
    return torch.einsum("ogbl,bc->ogcl", parts, hadamard(block) / math.sqrt(block)).reshape(weight.shape)


def _hartley(size: int) -> Tensor:
    k = torch.arange(size, dtype=torch.float64)
    angles = 2 * math.pi * torch.outer(k, k) / size
    return (angles.cos() + angles.sin()) / math.sqrt(size)
