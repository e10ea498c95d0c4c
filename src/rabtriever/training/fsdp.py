"""Weights that FSDP keeps in shards, one in each process; where there is none, they stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(weight: Tensor) -> Tensor:
    """Returns a weight, joined from its shards; every process must call it."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


@torch.no_grad()
def fill(weight: Tensor, values: Tensor) -> None:
    """Overwrites a weight with values of the whole one, or its shard with their part."""
    values = values.to(weight.device)
    if isinstance(weight, DTensor):
        values = distribute_tensor(values, weight.device_mesh, weight.placements)
    weight.copy_(values)


def gather_in_backward(layers: Iterable[nn.Module], computed: Iterable[Sequence[Tensor]]) -> None:
    """Lets a layer gather its weights again when a gradient comes by these tensors.

    FSDP expects gradients by what a layer returned; those of documents come by the keys and values that queries read.
    """
    for layer, tensors in zip(layers, computed, strict=True):
        for tensor in tensors if isinstance(layer, FSDPModule) else ():
            if tensor.requires_grad:
                tensor.register_hook(lambda _, layer=layer: layer.unshard())
