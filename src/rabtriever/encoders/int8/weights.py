"""The weights of bidirectional encoders as integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rabtriever.llm.int8.rotation import fold_hadamard, orthogonal
from rabtriever.llm.int8.weights import Linear, pack_layers, quantize_rows

FORMAT = 1  # raise it when conversion or the arrays change
LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class EncoderShape:
    """The numbers that describe an encoder beside its weights.

    ``window`` is how far a token sees in windowed layers; ``layer_norms`` tells BERT's family from Gemma's.
    """

    heads: int
    key_heads: int
    head_size: int
    units: int
    epsilon: float
    embedding_scale: float
    window: int
    layer_norms: bool


@dataclass(frozen=True)
class EncoderWeights:
    """All that the engine computes with; rotations are folded into what reads them.

    Attributes:
        qkv, out, up, down: The linear maps of all layers, as :class:`rabtriever.llm.int8.weights.Int8Weights` has them;
            ``up`` with the gate.
        qkv_bias, out_bias, up_bias, down_bias: float32 (layers, outputs).
        norms: float32 (2 * layers + 1, 2, H), between sublayers: a layer norm's weight and bias, or the weights of the
            RMS norm behind one sublayer and of that before the next; the last is the encoder's own.
        head_norms: float32 (layers, 2, head size), RMS norm weights of queries and keys, or (layers, 0, head size).
        windowed: int64 (layers,), 1 where a layer sees a window alone.
        embeddings: float16 (vocabulary, H).
        positions: float32 (positions, H), to be added; (0, H) where there are none.
        position_bias: As :class:`rabtriever.llm.int8.forward.Batch` has it.
        frequencies: float32 (2, head size / 2), of the rotary position embedding, of windowed layers the second.
        projection: float32 (H, width), behind the pooling; (0, 0) where there is none.
        projection_bias: float32 (width,).
        shape: The encoder's other numbers.
    """

    qkv: Linear
    out: Linear
    up: Linear
    down: Linear
    qkv_bias: np.ndarray
    out_bias: np.ndarray
    up_bias: np.ndarray
    down_bias: np.ndarray
    norms: np.ndarray
    head_norms: np.ndarray
    windowed: np.ndarray
    embeddings: np.ndarray
    positions: np.ndarray
    position_bias: np.ndarray
    frequencies: np.ndarray
    projection: np.ndarray
    projection_bias: np.ndarray
    shape: EncoderShape
    shape_type: ClassVar[type] = EncoderShape


@dataclass
class LayerParts:
    """A layer's linear maps as torch has them (weight, bias or None), of one architecture or another."""

    query: Any
    key: Any
    value: Any
    out: Any
    up: Sequence[Any]
    down: Any


def convert(model: Any, dense: Sequence[Any]) -> EncoderWeights:
    """Converts an encoder in float32 on the CPU.

    Args:
        model: The transformer, of an architecture in :data:`rabtriever.encoders.sentence_engines.BIDIRECTIONAL`.
        dense: The linear maps that follow the pooling.
    """
    from rabtriever.encoders.int8 import architectures

    with torch.inference_mode():
        read: Callable[[Any], tuple[list[LayerParts], dict[str, Any], EncoderShape]]
        read = architectures.read_gemma if model.config.model_type == "gemma3_text" else architectures.read_bert
        parts, others, shape = read(model)
        head = orthogonal(shape.head_size)
        biases = [_biases(layer, head) for layer in parts]
        return EncoderWeights(
            qkv=_pack([fold_hadamard(_qkv(layer, head)) for layer in parts]),
            out=_pack([_rotate_heads(layer.out.weight.float().T, head).T for layer in parts]),
            up=_pack([fold_hadamard(torch.cat([one.weight.float() for one in layer.up])) for layer in parts]),
            down=_pack([fold_hadamard(layer.down.weight.float()) for layer in parts]),
            **{name: np.stack([one[name] for one in biases]) for name in biases[0]},
            **{name: _array(value) for name, value in others.items()},
            **_projection(dense),
            shape=shape,
        )


def _pack(layers: list[Tensor]) -> Linear:
    return pack_layers((quantize_rows(layer) for layer in layers), len(layers))


def _qkv(layer: LayerParts, head: Tensor) -> Tensor:
    rotated = _rotate_heads(layer.value.weight.float(), head)
    return torch.cat([layer.query.weight.float(), layer.key.weight.float(), rotated])


def _rotate_heads(rows: Tensor, head: Tensor) -> Tensor:
    """Rotates each head's rows (heads * size, n): values, or what reads them, transposed."""
    return (head.T @ rows.reshape(-1, len(head), rows.shape[1])).reshape(rows.shape)


def _biases(layer: LayerParts, head: Tensor) -> dict[str, np.ndarray]:
    def bias(linear: Any) -> Tensor:  # noqa: ANN401
        return torch.zeros(len(linear.weight)) if linear.bias is None else linear.bias.float()

    value = _rotate_heads(bias(layer.value)[:, None], head)[:, 0]
    return {
        "qkv_bias": torch.cat([bias(layer.query), bias(layer.key), value]).numpy(),
        "out_bias": bias(layer.out).numpy(),
        "up_bias": torch.cat([bias(one) for one in layer.up]).numpy(),
        "down_bias": bias(layer.down).numpy(),
    }


def _projection(dense: Sequence[Any]) -> dict[str, np.ndarray]:
    """Returns linear maps that follow each other as one."""
    if not dense:
        return {"projection": np.empty((0, 0), np.float32), "projection_bias": np.empty(0, np.float32)}
    weight, bias = torch.eye(dense[0].weight.shape[1]).double(), torch.zeros(dense[0].weight.shape[1]).double()
    for linear in dense:
        weight, bias = weight @ linear.weight.double().T, bias @ linear.weight.double().T
        bias = bias if linear.bias is None else bias + linear.bias.double()
    return {"projection": weight.float().numpy(), "projection_bias": bias.float().numpy()}


def _array(value: Any) -> np.ndarray:  # noqa: ANN401
    array: np.ndarray = value.contiguous().numpy() if isinstance(value, Tensor) else value
    return array
