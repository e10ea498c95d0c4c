"""The weights of Llama-like LLMs, rotated so that eight bits hold them, as integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rabtriever.llm.int8 import PANEL_COLUMNS
from rabtriever.llm.int8.rotation import fold_hadamard, orthogonal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LINEARS = ("qkv", "out", "gate_up", "down")
Linears = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class LLMShape:
    """The numbers that describe an LLM beside its weights.

    Attributes:
        heads: Query heads of a layer.
        key_heads: Key heads of a layer.
        head_size: Width of a head.
        units: Of the MLP.
        epsilon: Of all norms.
        rope_scale: What cosines and sines are multiplied by.
        embedding_dtype: torch's name of the embeddings' type.
    """

    heads: int
    key_heads: int
    head_size: int
    units: int
    epsilon: float
    rope_scale: float
    embedding_dtype: str


@dataclass(frozen=True)
class Int8Weights:
    """All that the engine computes with; norms and rotations are folded into what reads them.

    The linear maps are of all layers: codes int8 (layers, panels, depth, PANEL_COLUMNS, 4), offsets int32 and scales
    float32 (layers, panels * PANEL_COLUMNS).

    Attributes:
        qkv: Queries, keys and values.
        out: Behind the attention.
        gate_up: Both ways into the MLP.
        down: Out of it, behind the mixed units.
        bias: float32 (layers, columns of qkv).
        norms: float32 (layers, 2, head size), RMS norm weights of queries and keys, or (layers, 0, head size).
        embeddings: (vocabulary, H) float32, or int16: the bits of bfloat16 or float16.
        final_norm: float32 (H,).
        frequencies: float32 (head size / 2,), of the rotary position embedding.
        shape: The LLM's other numbers.
    """

    qkv: Linears
    out: Linears
    gate_up: Linears
    down: Linears
    bias: np.ndarray
    norms: np.ndarray
    embeddings: np.ndarray
    final_norm: np.ndarray
    frequencies: np.ndarray
    shape: LLMShape

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        arrays = [array for name in LINEARS for array in getattr(self, name)]
        return sum(array.nbytes for array in [*arrays, self.embeddings])


@torch.inference_mode()
def convert(model: PreTrainedModel) -> Int8Weights:
    """Converts a Llama-like LLM on the CPU, layer by layer. The embeddings share its memory."""
    config, decoder = model.config.get_text_config(), model.get_decoder()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotation = orthogonal(config.hidden_size)
    stacks = {name: _Stack(len(decoder.layers)) for name in LINEARS}
    bias, norms = [], []
    for layer in decoder.layers:
        for stack, weight in zip(stacks.values(), _rotated_linears(layer, head_size, rotation), strict=True):
            stack.append(*quantize_rows(weight))
        bias.append(_qkv_bias(layer.self_attn, head_size))
        norms.append(_head_norms(layer.self_attn, head_size))
    embeddings = decoder.embed_tokens.weight.detach()
    shape = LLMShape(
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_size=head_size,
        units=config.intermediate_size,
        epsilon=config.rms_norm_eps,
        rope_scale=float(decoder.rotary_emb.attention_scaling),
        embedding_dtype=str(embeddings.dtype).removeprefix("torch."),
    )
    return Int8Weights(
        qkv=stacks["qkv"].arrays(),
        out=stacks["out"].arrays(),
        gate_up=stacks["gate_up"].arrays(),
        down=stacks["down"].arrays(),
        bias=np.stack(bias),
        norms=np.stack(norms),
        embeddings=(embeddings if embeddings.dtype == torch.float32 else embeddings.view(torch.int16)).numpy(),
        final_norm=decoder.norm.weight.float().numpy(),
        frequencies=decoder.rotary_emb.inv_freq.float().numpy(),
        shape=shape,
    )


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns int8 codes (out, in) and float32 scales (out,).

    Rotated rows are bell-shaped: cutting their tails would gain nothing.
    """
    scales = weight.abs().amax(1, keepdim=True).clamp_min(1e-30) / 127
    return (weight / scales).round().to(torch.int8), scales.flatten()


def pack_layers(linears: list[tuple[Tensor, Tensor]]) -> Linears:
    """Packs one linear map of all layers as :func:`matmul.multiply_bytes` reads it, from :func:`quantize_rows`."""
    stack = _Stack(len(linears))
    for codes, scales in linears:
        stack.append(codes, scales)
    return stack.arrays()


class _Stack:
    """The arrays of one linear map in all layers, filled layer by layer: no layer is in memory twice."""

    def __init__(self, n_layers: int) -> None:
        self._n_layers, self._filled = n_layers, 0
        self._arrays: Linears | None = None

    def append(self, codes: Tensor, scales: Tensor) -> None:
        """Appends the next layer's codes (out, in) and scales (out,)."""
        rows, columns = codes.shape
        panels, depth = -(-rows // PANEL_COLUMNS), -(-columns // 4)
        if self._arrays is None:
            shape = (self._n_layers, panels, depth, PANEL_COLUMNS, 4)
            flat = (self._n_layers, panels * PANEL_COLUMNS)
            self._arrays = np.empty(shape, np.int8), np.zeros(flat, np.int32), np.zeros(flat, np.float32)
        padded = np.zeros((panels * PANEL_COLUMNS, depth * 4), np.int8)
        padded[:rows, :columns] = codes.numpy()
        all_codes, all_offsets, all_scales = self._arrays
        all_codes[self._filled] = padded.reshape(panels, PANEL_COLUMNS, depth, 4).transpose(0, 2, 1, 3)
        # Codes of a text's row count from 128, which these offsets take back.
        all_offsets[self._filled, :rows] = codes.sum(1, dtype=torch.int32).numpy() * -128
        all_scales[self._filled, :rows] = scales.numpy()
        self._filled += 1

    def arrays(self) -> Linears:
        """Returns codes, offsets and scales of all layers."""
        assert self._arrays is not None and self._filled == self._n_layers
        return self._arrays


def _rotated_linears(layer: Any, head_size: int, rotation: Tensor) -> list[Tensor]:
    """Returns a decoder layer's four linear maps, float32 (out, in), in the order of ``LINEARS``.

    The residual stream is ``hidden @ rotation``; each head's values are rotated, which the output's weights undo.
    """
    attention, mlp = layer.self_attn, layer.mlp
    head_rotation = orthogonal(head_size)
    qkv = _fold_norm(layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj), rotation)
    n_values = len(attention.v_proj.weight)
    values = qkv[-n_values:].view(-1, head_size, len(rotation))
    qkv[-n_values:] = (head_rotation.T @ values).reshape(n_values, -1)
    out = attention.o_proj.weight.float()
    out = (out.view(len(out), -1, head_size) @ head_rotation).reshape(out.shape)
    gate_up = _fold_norm(layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), rotation)
    return [qkv, rotation.T @ out, gate_up, fold_hadamard(rotation.T @ mlp.down_proj.weight.float())]


def _fold_norm(norm: Any, linears: tuple[Any, ...], rotation: Tensor) -> Tensor:
    """Returns weights that read the normalised residual stream, as one."""
    return (torch.cat([linear.weight for linear in linears]).float() * norm.weight.float()) @ rotation


def _qkv_bias(attention: Any, head_size: int) -> np.ndarray:
    linears = (attention.q_proj, attention.k_proj, attention.v_proj)
    bias = torch.cat([torch.zeros(len(one.weight)) if one.bias is None else one.bias.float() for one in linears])
    n_values = len(attention.v_proj.weight)
    bias[-n_values:] = (bias[-n_values:].view(-1, head_size) @ orthogonal(head_size)).flatten()
    return bias.numpy()


def _head_norms(attention: Any, head_size: int) -> np.ndarray:
    if not hasattr(attention, "q_norm"):
        return np.empty((0, head_size), np.float32)
    return torch.stack([attention.q_norm.weight, attention.k_norm.weight]).float().numpy()
