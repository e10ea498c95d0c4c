"""What computes a sentence-transformers model's embeddings, and which is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rabtriever.choices import BACKENDS
from rabtriever.encoders.sentence_files import SentenceModel
from rabtriever.errors import InputError, first_line

if TYPE_CHECKING:
    import torch

TOKEN_BUDGET = 2048  # tokens of a padded batch; on a CPU more is not faster


class SentenceEngine(Protocol):
    """Computes embeddings; ``token_budget`` is the most tokens of a batch."""

    token_budget: int

    def encode(self, sequences: Sequence[Sequence[int]], prompt_tokens: int) -> np.ndarray:
        """Returns float32 (n, width), before truncation to fewer dimensions and normalisation.

        Args:
            sequences: Token ids, special tokens and prompt included.
            prompt_tokens: First tokens that a pooling without prompts leaves out.
        """


def choose_engine(model: SentenceModel, device: str, backend: str, *, dtype_given: bool) -> tuple[str, str]:
    """Returns the name of the engine that will run a model, and why, as one line.

    ``auto`` is int8 for models that it can run, on a CPU with AVX-512 VNNI, else torch; also torch where the caller
    asked for a data type, which int8 does not have.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r}: choose from {', '.join(BACKENDS)}", param="backend")
    if backend == "int8":
        raise InputError(f"backend 'int8': not for {model.config.get('model_type')}; use 'torch'", param="backend")
    return "torch", "asked for" if backend == "torch" else "reads every model"


def create_engine(model: SentenceModel, backend: str, device: str, dtype: torch.dtype | str | None) -> SentenceEngine:
    """Creates an engine by the name that :func:`choose_engine` returned."""
    return TorchSentenceEngine(model, device, dtype)


class TorchSentenceEngine:
    """sentence-transformers itself: the reference. Padding tokens are masked.

    Args:
        model: The model's files.
        device: To compute on.
        dtype: Of the weights; None means float32 on a CPU, else what the hardware multiplies.

    Raises:
        InputError: the model cannot be loaded.
    """

    token_budget = TOKEN_BUDGET

    def __init__(self, model: SentenceModel, device: str, dtype: torch.dtype | str | None) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        from rabtriever.llm.loading import native_dtype, parse_dtype

        wanted = parse_dtype(dtype or (torch.float32 if device == "cpu" else native_dtype(device)))
        try:
            loaded = SentenceTransformer(
                str(model.folder), device=device, local_files_only=True, model_kwargs={"dtype": wanted}
            )
        except Exception as error:  # a broken file makes it fail in many ways
            raise InputError(f"{model.source}: cannot be loaded ({first_line(error)})") from error
        self.modules, self.padding = loaded.to(wanted).eval(), model.config.get("pad_token_id") or 0
        self.device = loaded.device

    def encode(self, sequences: Sequence[Sequence[int]], prompt_tokens: int) -> np.ndarray:
        """Returns float32 (n, width); see :class:`SentenceEngine`."""
        import torch

        with torch.inference_mode():
            embeddings: np.ndarray = self.embed(sequences, prompt_tokens).float().cpu().numpy()
        return embeddings

    def embed(self, sequences: Sequence[Sequence[int]], prompt_tokens: int) -> torch.Tensor:
        """Returns what :meth:`encode` does as a tensor, with gradients unless they are off."""
        import torch

        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), self.padding)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)], mask[row, : len(sequence)] = torch.tensor(sequence), 1
        features = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        found: torch.Tensor = self.modules({**features, "prompt_length": prompt_tokens})["sentence_embedding"]
        return found
