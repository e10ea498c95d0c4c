"""The weights of Llama-like LLMs, turned so that eight bits hold them, as whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rabtriever.llm.int8.matmul import PANEL
from rabtriever.llm.int8.rotation import mix_columns, orthogonal


@dataclass
class Layer:
    """A decoder layer's weights as int8 codes (out, in) and float32 scales (out,); norms and rotations folded in.

    Attributes:
        qkv: Queries, keys and values.
        out: Behind the attention.
        gate_up: Both ways into the MLP.
        down: Out of it, behind the mixed units.
        bias: float32, of qkv.
        norms: float32 (2, head size), RMS norm weights of queries and keys, or (0, head size).
    """

    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    gate_up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    bias: np.ndarray
    norms: np.ndarray


def stack(linears: list[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One linear map of all layers as :func:`tiles.multiply_bytes` reads it.

    Returns:
        int8 (layers, panels, depth, PANEL, 4), int32 and float32 (layers, panels * PANEL). QuantizedLatents of rows count from
        128, which the whole numbers take back.
    """
    rows, columns = linears[0][0].shape
    padding = (0, -columns % 4, 0, -rows % PANEL)
    packed = [F.pad(codes, padding).view(-1, PANEL, (columns + 3) // 4, 4).transpose(1, 2) for codes, _ in linears]
    offsets = [F.pad(codes.sum(1, dtype=torch.int32) * -128, padding[2:]) for codes, _ in linears]
    scales = [F.pad(scales, padding[2:]) for _, scales in linears]
    return torch.stack(packed).contiguous().numpy(), torch.stack(offsets).numpy(), torch.stack(scales).numpy()


@torch.inference_mode()
def convert(layer: Any, size: int, turn: Tensor) -> Layer:  # noqa: ANN401
    """A decoder layer of transformers.

    Args:
        layer: With ``self_attn``, ``mlp`` and two norms, as the Llama family has them.
        size: Of a head.
        turn: float32 (H, H), orthogonal: the residual stream is kept as ``hidden @ turn``.
    """
    attention, mlp = layer.self_attn, layer.mlp
    within = orthogonal(size)  # each head's values; undone by the output's weights
    linears = (attention.q_proj, attention.k_proj, attention.v_proj)
    values = len(attention.v_proj.weight)
    qkv = _reading(layer.input_layernorm, linears, turn)
    qkv[-values:] = (within.T @ qkv[-values:].view(-1, size, len(turn))).reshape(values, -1)
    bias = torch.cat([torch.zeros(len(one.weight)) if one.bias is None else one.bias.float() for one in linears])
    bias[-values:] = (bias[-values:].view(-1, size) @ within).flatten()
    norms = [attention.q_norm.weight, attention.k_norm.weight] if hasattr(attention, "q_norm") else []
    out = attention.o_proj.weight.float()
    return Layer(
        qkv=rounded(qkv),
        bias=bias.numpy(),
        norms=torch.stack(norms).float().numpy() if norms else np.empty((0, size), np.float32),
        out=rounded(turn.T @ (out.view(len(out), -1, size) @ within).reshape(out.shape)),
        gate_up=rounded(_reading(layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), turn)),
        down=rounded(mix_columns(turn.T @ mlp.down_proj.weight.float())),
    )


def _reading(norm: Any, linears: tuple[Any, ...], turn: Tensor) -> Tensor:  # noqa: ANN401
    """Weights that read the normalised residual stream, as one."""
    return (torch.cat([linear.weight for linear in linears]).float() * norm.weight.float()) @ turn


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes (out, in) and float32 scales (out,). Turned, rows are bell-shaped: cutting tails gains nothing."""
    scales = weight.abs().amax(1, keepdim=True).clamp_min(1e-30) / 127
    return (weight / scales).round().to(torch.int8), scales.flatten()
