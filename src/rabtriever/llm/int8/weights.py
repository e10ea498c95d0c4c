"""The weights of Llama-like LLMs, rotated so that eight bits hold them, as integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rabtriever.llm.int8 import PANEL_COLUMNS
from rabtriever.llm.int8.rotation import fold_hadamard, orthogonal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LINEARS = ("qkv", "out", "gate_up", "down")
Linear = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class LLMShape:
    """The numbers that describe an LLM beside its weights; ``units`` are the MLP's.

    ``rope_scale`` multiplies cosines and sines; ``embedding_dtype`` is torch's name of the embeddings' type.
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

    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    bias: np.ndarray
    norms: np.ndarray
    embeddings: np.ndarray
    final_norm: np.ndarray
    frequencies: np.ndarray
    shape: LLMShape
    shape_type: ClassVar[type] = LLMShape

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
    rotation, head_rotation = orthogonal(config.hidden_size), orthogonal(head_size)
    embeddings = decoder.embed_tokens.weight.detach()

    def linear(compute: Callable[[Any, Tensor, Tensor], Tensor]) -> Linear:
        """Packs a linear map of all layers."""
        rows = (quantize_rows(compute(layer, rotation, head_rotation)) for layer in decoder.layers)
        return pack_layers(rows, len(decoder.layers))

    return Int8Weights(
        qkv=linear(_qkv),
        out=linear(_out),
        gate_up=linear(_gate_up),
        down=linear(_down),
        bias=np.stack([_qkv_bias(layer.self_attn, head_rotation) for layer in decoder.layers]),
        norms=np.stack([_head_norms(layer.self_attn, head_size) for layer in decoder.layers]),
        embeddings=(embeddings if embeddings.dtype == torch.float32 else embeddings.view(torch.int16)).numpy(),
        final_norm=decoder.norm.weight.float().numpy(),
        frequencies=decoder.rotary_emb.inv_freq.float().numpy(),
        shape=LLMShape(
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            head_size=head_size,
            units=config.intermediate_size,
            epsilon=config.rms_norm_eps,
            rope_scale=float(decoder.rotary_emb.attention_scaling),
            embedding_dtype=str(embeddings.dtype).removeprefix("torch."),
        ),
    )


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns int8 codes (out, in) and float32 scales (out,).

    Rotated rows are bell-shaped: cutting their tails would gain nothing.
    """
    scales = weight.abs().amax(1, keepdim=True).clamp_min(1e-30) / 127
    return (weight / scales).round().to(torch.int8), scales.flatten()


def pack_layers(quantized: Iterable[tuple[Tensor, Tensor]], n_layers: int) -> Linear:
    """Packs one linear map of all layers as :func:`matmul.multiply_bytes` reads it, from :func:`quantize_rows`.

    They are taken one by one: no layer is in memory twice.
    """
    for layer, (codes, scales) in enumerate(quantized):
        rows, columns = codes.shape
        panels, depth = -(-rows // PANEL_COLUMNS), -(-columns // 4)
        if layer == 0:
            all_codes = np.empty((n_layers, panels, depth, PANEL_COLUMNS, 4), np.int8)
            all_offsets = np.zeros((n_layers, panels * PANEL_COLUMNS), np.int32)
            all_scales = np.zeros((n_layers, panels * PANEL_COLUMNS), np.float32)
        padded = np.zeros((panels * PANEL_COLUMNS, depth * 4), np.int8)
        padded[:rows, :columns] = codes.numpy()
        all_codes[layer] = padded.reshape(panels, PANEL_COLUMNS, depth, 4).transpose(0, 2, 1, 3)
        # Codes of a text's row count from 128, which these offsets take back.
        all_offsets[layer, :rows] = codes.sum(1, dtype=torch.int32).numpy() * -128
        all_scales[layer, :rows] = scales.numpy()
    return all_codes, all_offsets, all_scales


# A decoder layer's linear maps, float32 (out, in). The residual stream is ``hidden @ rotation``; each head's values are
# rotated, which the output's weights undo.


def _qkv(layer: Any, rotation: Tensor, head_rotation: Tensor) -> Tensor:
    attention = layer.self_attn
    qkv = _fold_norm(layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj), rotation)
    n_values = len(attention.v_proj.weight)
    values = qkv[-n_values:].view(-1, len(head_rotation), len(rotation))
    qkv[-n_values:] = (head_rotation.T @ values).reshape(n_values, -1)
    return qkv


def _out(layer: Any, rotation: Tensor, head_rotation: Tensor) -> Tensor:
    out = layer.self_attn.o_proj.weight.float()
    return rotation.T @ (out.view(len(out), -1, len(head_rotation)) @ head_rotation).reshape(out.shape)


def _gate_up(layer: Any, rotation: Tensor, _: Tensor) -> Tensor:
    return _fold_norm(layer.post_attention_layernorm, (layer.mlp.gate_proj, layer.mlp.up_proj), rotation)


def _down(layer: Any, rotation: Tensor, _: Tensor) -> Tensor:
    return fold_hadamard(rotation.T @ layer.mlp.down_proj.weight.float())


def _fold_norm(norm: Any, linears: tuple[Any, ...], rotation: Tensor) -> Tensor:
    """Returns weights that read the normalised residual stream, as one."""
    return (torch.cat([linear.weight for linear in linears]).float() * norm.weight.float()) @ rotation


def _qkv_bias(attention: Any, head_rotation: Tensor) -> np.ndarray:
    linears = (attention.q_proj, attention.k_proj, attention.v_proj)
    bias = torch.cat([torch.zeros(len(one.weight)) if one.bias is None else one.bias.float() for one in linears])
    n_values = len(attention.v_proj.weight)
    bias[-n_values:] = (bias[-n_values:].view(-1, len(head_rotation)) @ head_rotation).flatten()
    return bias.numpy()


def _head_norms(attention: Any, head_size: int) -> np.ndarray:
    if not hasattr(attention, "q_norm"):
        return np.empty((0, head_size), np.float32)
    return torch.stack([attention.q_norm.weight, attention.k_norm.weight]).float().numpy()
