"""What the encoders are compared on, and sentence-transformers over it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rabtriever.data import read_corpus

BATCH = 16


def some_texts(folder: Path, count: int) -> list[str]:
    """Every so-manieth document of a corpus."""
    documents = list(read_corpus(str(folder)))
    return [document.content for document in documents[:: max(1, len(documents) // count)][:count]]


def sentence_transformer(
    model: Any, tokenizer: Any, texts: Sequence[str], longest: int
) -> tuple[Callable[[], Any], int]:
    """sentence-transformers on the same LLM in bfloat16: a call over the texts, and the tokens that it reads."""
    from sentence_transformers import SentenceTransformer, models

    with tempfile.TemporaryDirectory() as folder:
        model.get_decoder().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = models.Transformer(folder, max_seq_length=longest, model_kwargs={"dtype": torch.bfloat16})
    transformer.tokenizer.pad_token = transformer.tokenizer.pad_token or transformer.tokenizer.eos_token
    encoder = SentenceTransformer(
        modules=[transformer, models.Pooling(model.config.hidden_size, "mean")], device=str(model.device)
    )
    prompts = [f"Document: {text}\n" for text in texts]
    tokens = sum(min(longest, len(tokenizer(text)["input_ids"])) for text in prompts)
    return lambda: encoder.encode(prompts, batch_size=BATCH, show_progress_bar=False), tokens
