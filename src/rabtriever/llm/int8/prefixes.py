"""First tokens that texts share: the fixed beginning of a prompt's segments, read once for all texts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rabtriever.llm.int8.rotation import orthogonal

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(eq=False)
class SharedPrefix:
    """First tokens that texts share.

    Attributes:
        tokens: Their ids; there may be none.
        rows: uint16 (layers, tokens, 2 * key heads * head size), keys and values as float16's bits.
        states: float32 (tokens, H) after the final norm.
    """

    tokens: tuple[int, ...]
    rows: np.ndarray
    states: Tensor


@torch.inference_mode()
def compute_prefix(model: PreTrainedModel, tokens: tuple[int, ...]) -> SharedPrefix:
    """Reads first tokens by the LLM's own layers, a float32 copy of one at a time.

    The first token's huge states are what eight bits cannot hold.
    """
    from transformers import DynamicCache

    decoder, cache = model.get_decoder(), DynamicCache()
    hidden = decoder.embed_tokens(torch.tensor([tokens])).float()
    rope = decoder.rotary_emb(hidden, torch.arange(len(tokens))[None])
    mask = torch.full((len(tokens), len(tokens)), torch.finfo(torch.float32).min).triu(1)[None, None]
    for layer in decoder.layers:
        exact = copy.deepcopy(layer).float()
        hidden = exact(hidden, attention_mask=mask, position_embeddings=rope, past_key_values=cache)
    hidden = copy.deepcopy(decoder.norm).float()(hidden)[0]
    layers: list[Any] = list(cache.layers)
    pairs = [torch.stack([one.keys[0], one.values[0] @ orthogonal(one.values.shape[-1])]) for one in layers]
    rows = torch.stack(pairs).permute(0, 3, 1, 2, 4).flatten(2).half().contiguous()
    return SharedPrefix(tokens, rows.view(torch.int16).numpy().view(np.uint16), hidden)
