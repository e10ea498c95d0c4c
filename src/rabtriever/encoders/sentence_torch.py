"""sentence-transformers itself: reads every model, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rabtriever.encoders.sentence_model import SentenceModel
from rabtriever.errors import InputError, first_line

if TYPE_CHECKING:
    import torch

TOKEN_BUDGET = 2048  # tokens of a padded batch; on a CPU more is not faster


class TorchSentenceEngine:
    """The reference; see :class:`rabtriever.encoders.sentence_engines.SentenceEngine`. Padding tokens are masked.

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
        from rabtriever.llm.weights import no_progress_bar

        wanted = parse_dtype(dtype or (torch.float32 if device == "cpu" else native_dtype(device)))
        try:
            with no_progress_bar():
                options: dict[str, Any] = {"local_files_only": True, "model_kwargs": {"dtype": wanted}}
                loaded = SentenceTransformer(str(model.folder), device=device, **options)
        except Exception as error:  # a broken file makes it fail in many ways
            raise InputError(
                f"{model.source}: cannot be loaded ({first_line(error)}); copy or download it again"
            ) from error
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
