"""Sums of ReLUs of every query and document, and their derivatives, without (queries x documents x units) in memory.

A training step of 64 queries, 1,000 documents and 256 units would write and read 64 MB several times; here a document's
units stay in the processor's first cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from rabtriever.kernels.compile import njit


def relu_scores(a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """Returns ``sum_j v_j relu(a_j + b_j)``, float32 (n, k), differentiably.

    Args:
        a: float32 (n, m), hidden units of queries; on the CPU, like the others.
        b: float32 (k, m), hidden units of documents.
        v: float32 (m,), the output layer.
    """
    scores: Tensor = _ReluScores.apply(a, b, v)  # type: ignore[no-untyped-call]
    return scores


class _ReluScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, b: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, v)
        scores = np.empty((len(a), len(b)), np.float32)
        _forward(*map(_array, (a, b, v)), scores)
        return torch.from_numpy(scores)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        arrays = tuple(map(_array, ctx.saved_tensors))
        derivatives = tuple(np.zeros_like(array) for array in arrays)
        _backward(*arrays, _array(of_scores), *derivatives)
        of_a, of_b, of_v = map(torch.from_numpy, derivatives)
        v = ctx.saved_tensors[2]
        return of_a * v, of_b * v, of_v


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


@njit(nogil=True, boundscheck=False, fastmath=True)
def _forward(a: Any, b: Any, v: Any, scores: Any) -> None:
    for i in range(len(a)):
        for k in range(len(b)):
            total = np.float32(0)
            for j in range(len(v)):
                total += v[j] * max(a[i, j] + b[k, j], np.float32(0))
            scores[i, k] = total


@njit(nogil=True, boundscheck=False, fastmath=True)
def _backward(a: Any, b: Any, v: Any, of_scores: Any, of_a: Any, of_b: Any, of_v: Any) -> None:
    """Adds the derivatives; those of a and b are without the factor v."""
    for i in range(len(a)):
        for k in range(len(b)):
            slope = of_scores[i, k]
            for j in range(len(v)):
                unit = a[i, j] + b[k, j]
                part = slope if unit > 0 else np.float32(0)
                of_a[i, j] += part
                of_b[k, j] += part
                of_v[j] += part * unit
