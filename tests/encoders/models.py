"""Tiny random sentence-transformers models, saved as folders; and an encoder that is no model at all."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"num_attention_heads": 4},
    "mpnet": {"num_attention_heads": 4},
    "roberta": {"num_attention_heads": 4},
    "gemma3_text": {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "use_bidirectional_attention": True,
    },
    "qwen3": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
}


def save_sentence_model(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    architecture: str = "bert",
    *,
    pooling: Any = "mean",
    include_prompt: bool = True,
    dense: tuple[int, ...] = (),
    normalize: bool = True,
    max_length: int = 32,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Saves a model; ``dense`` are the widths of its Dense layers, ``options`` SentenceTransformer's."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"max_position_embeddings": 64, "pad_token_id": 1, **CONFIGS[architecture], **(config or {})}
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(architecture, **shape))
    for weight in model.parameters():
        # The default initialisation is so small that all texts look alike.
        torch.nn.init.normal_(weight, std=0.3) if weight.dim() > 1 else weight.data.add_(
            0.2 * torch.randn(weight.shape)
        )
    plain = folder.with_name(f"{folder.name}-plain")
    model.save_pretrained(plain)
    with_ends = copy.deepcopy(tokenizer)
    with_ends.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A <s>",
        special_tokens=[("<s>", 0)],  # MPNet takes token 1 for padding
    )
    with_ends.pad_token = "</s>"
    with_ends.save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=max_length)
    steps: list[Any] = [transformer, Pooling(32, pooling, include_prompt=include_prompt)]
    width = steps[1].pooling_output_dimension
    for size in dense:
        steps.append(Dense(width, size, bias=False, activation_function=torch.nn.Identity()))
        width = size
    SentenceTransformer(modules=[*steps, *([Normalize()] if normalize else [])], **options).save(str(folder))
    return folder


class HashEncoder:
    """Embeddings of length one that a hash of the text draws: as much of an encoder as scores depend on."""

    has_similarity, numerics = True, "none"

    def __init__(self, hidden_size: int = 12) -> None:
        self.hidden_size, self.fingerprint, self.encoded = hidden_size, f"hash/{hidden_size}", list[str]()

    def encode_queries(self, texts: Sequence[str], *_: Any) -> np.ndarray:
        self.encoded += texts
        rows = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=self.hidden_size) for text in texts]
        states = np.array(rows, np.float32).reshape(len(texts), self.hidden_size)
        return states / np.linalg.norm(states, axis=1, keepdims=True)

    encode_documents = encode_queries

    def describe(self) -> dict[str, Any]:
        return {"name": "hash", "backend": "none"}
