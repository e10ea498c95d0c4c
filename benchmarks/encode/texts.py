"""What the encoders are compared on, and how one would read it without us."""

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


@torch.inference_mode()
def naive_states(model: Any, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """transformers as its documentation shows it: batches in the order given, padded, masked; the mean state."""
    found = []
    for start in range(0, len(sequences), BATCH):
        batch = sequences[start : start + BATCH]
        ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
        found.append((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    return torch.cat(found)


def sentence_transformer(
    model: Any, tokenizer: Any, texts: Sequence[str], longest: int
) -> tuple[Callable[[], Any], int]:
    """sentence-transformers on the same LLM in bfloat16: a call over the texts, and the tokens that it reads."""
    from sentence_transformers import SentenceTransformer, models

    with tempfile.TemporaryDirectory() as folder:
        model.get_decoder().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = models.Transformer(folder, max_seq_length=longest, model_args={"dtype": torch.bfloat16})
    transformer.tokenizer.pad_token = transformer.tokenizer.pad_token or transformer.tokenizer.eos_token
    encoder = SentenceTransformer(modules=[transformer, models.Pooling(model.config.hidden_size, "mean")], device="cpu")
    prompts = [f"Document: {text}\n" for text in texts]
    tokens = sum(min(longest, len(tokenizer(text)["input_ids"])) for text in prompts)
    return lambda: encoder.encode(prompts, batch_size=BATCH, show_progress_bar=False), tokens
