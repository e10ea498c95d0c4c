"""Where transformers keeps the weights of each architecture that the engine reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rabtriever.encoders.int8.weights import LOG2_E, EncoderShape, LayerParts

Read = tuple[list[LayerParts], dict[str, Any], EncoderShape]


def read_bert(model: Any) -> Read:
    """Reads BERT, RoBERTa, XLM-RoBERTa and MPNet: layer norms, learned positions, heads with keys of their own."""
    config, table, mpnet = model.config, model.embeddings, model.config.model_type == "mpnet"
    size = config.hidden_size // config.num_attention_heads
    parts, norms = [], [table.LayerNorm]
    for layer in model.encoder.layer:
        attention = layer.attention.attn if mpnet else layer.attention.self
        query, key, value = (
            (attention.q, attention.k, attention.v) if mpnet else (attention.query, attention.key, attention.value)
        )
        out = attention.o if mpnet else layer.attention.output.dense
        parts.append(LayerParts(query, key, value, out, [layer.intermediate.dense], layer.output.dense))
        norms += [layer.attention.LayerNorm if mpnet else layer.attention.output.LayerNorm, layer.output.LayerNorm]
    # RoBERTa and MPNet count positions from behind the padding's.
    first = 0 if config.model_type == "bert" else config.pad_token_id + 1
    positions = table.position_embeddings.weight[first:].float()
    if not mpnet:
        positions = positions + table.token_type_embeddings.weight[0].float()
    bias = _relative_bias(model.encoder, len(positions)) if mpnet else torch.empty(0, 0)
    others = {
        "norms": torch.stack([torch.stack([norm.weight, norm.bias]) for norm in norms]).float(),
        "head_norms": torch.empty(len(parts), 0, size),
        "windowed": np.zeros(len(parts), np.int64),
        "embeddings": table.word_embeddings.weight.half(),
        "positions": positions,
        "position_bias": bias,
        "frequencies": torch.zeros(2, size // 2),
    }
    heads, units, epsilon = config.num_attention_heads, config.intermediate_size, config.layer_norm_eps
    return parts, others, EncoderShape(heads, heads, size, units, epsilon, 1.0, 0, True)


def read_gemma(model: Any) -> Read:
    """Reads Gemma 3 with bidirectional attention: RMS norms around each sublayer, rotary positions, a gated MLP."""
    config, size = model.config, model.config.head_dim
    # The attention divides scores by the root of the head size.
    sharpness = math.sqrt(size / config.query_pre_attn_scalar)
    parts, head_norms = [], []
    between = [(None, model.layers[0].input_layernorm)]
    for layer, after in zip(model.layers, [*model.layers[1:], None], strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        linears = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        parts.append(LayerParts(*linears, [mlp.gate_proj, mlp.up_proj], mlp.down_proj))
        head_norms.append(torch.stack([_weight(attention.q_norm) * sharpness, _weight(attention.k_norm)]))
        between.append((layer.post_attention_layernorm, layer.pre_feedforward_layernorm))
        between.append((layer.post_feedforward_layernorm, model.norm if after is None else after.input_layernorm))
    pairs = [
        torch.stack([torch.zeros(config.hidden_size) if a is None else _weight(a), _weight(b)]) for a, b in between
    ]
    rope = model.rotary_emb
    others = {
        "norms": torch.stack(pairs),
        "head_norms": torch.stack(head_norms),
        "windowed": np.array([kind == "sliding_attention" for kind in config.layer_types], np.int64),
        "embeddings": model.embed_tokens.weight.half(),
        "positions": torch.empty(0, config.hidden_size),
        "position_bias": torch.empty(0, 0),
        "frequencies": torch.stack([rope.full_attention_inv_freq, rope.sliding_attention_inv_freq]).float(),
    }
    shape = EncoderShape(
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_size=size,
        units=config.intermediate_size,
        epsilon=config.rms_norm_eps,
        embedding_scale=float(model.embed_tokens.embed_scale),
        window=config.sliding_window - 1,  # transformers' bound is exclusive
        layer_norms=False,
    )
    return parts, others, shape


def _weight(norm: Any) -> Tensor:  # noqa: ANN401
    weight: Tensor = 1 + norm.weight.float()
    return weight


def _relative_bias(encoder: Any, positions: int) -> Tensor:  # noqa: ANN401
    """Returns what MPNet adds to scores, by key - query + positions - 1: float32 (heads, 2 * positions - 1)."""
    distances = torch.arange(-positions + 1, positions)
    buckets = encoder.relative_position_bucket(distances)
    bias: Tensor = encoder.relative_attention_bias(buckets).float().T * LOG2_E
    return bias
