"""Any sentence-transformers cross-encoder as a reranker."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import Unpack

from rabtriever.errors import InputError, TextError, check_texts, first_line, shorten
from rabtriever.llm.loading import LoadOptions, choose_device, hub_options
from rabtriever.llm.sources import find_model, hash_model, is_path
from rabtriever.persistence.folder import normalized_uri
from rabtriever.rerankers.base import PairScorer, Scores
from rabtriever.scoring.calibration import Calibration

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

BATCH_SIZE = 32


class CrossEncoderReranker(PairScorer):
    """Scores (query, document) pairs by a model with one output; that number, before any sigmoid, is the log-odds.

    Pairs too long for the model lose tokens of the longer text. There are no states z*(q, d).

    Args:
        model: The loaded model.
        source: What to load again.
        fingerprint: Identifies its weights and settings.
        revision: Branch, tag or commit of a hub id, if one was given.

    Raises:
        InputError: the model has more outputs than one.
    """

    has_states = False
    adapter: Path | None = None

    def __init__(self, model: CrossEncoder, source: str, fingerprint: str, revision: str | None = None) -> None:
        if model.num_labels != 1:
            raise InputError(
                f"{source}: a cross-encoder of {model.num_labels} outputs; give one that has a single score"
            )
        self.model, self.source, self.fingerprint, self.calibration = model, source, fingerprint, Calibration()
        self.revision, self.numerics = revision, f"torch/{model.dtype}/{model.device.type}"

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, revision: str | None = None, **options: Unpack[LoadOptions]
    ) -> CrossEncoderReranker:
        """Loads a model from a folder or the hub.

        Args:
            name_or_path: Folder or hub id.
            revision: Branch, tag or commit of a hub id; the main branch if None.
            **options: ``device``, ``dtype`` (float32 by default), ``token`` and ``local_files_only``.

        Raises:
            InputError: no such model, or one with more outputs than one.
        """
        from sentence_transformers import CrossEncoder

        files = find_model(str(name_or_path), revision=revision, **hub_options(options))
        identity = f"cross-encoder/{hash_model(files, None)}"
        device, dtype = choose_device(options.get("device")), options.get("dtype") or "float32"
        try:
            model = CrossEncoder(str(files.folder), device=device, local_files_only=True, model_kwargs={"dtype": dtype})
        except (OSError, ValueError, RuntimeError) as error:
            fault = f"no cross-encoder could be loaded ({first_line(error)})"
            raise InputError(f"{name_or_path}: {fault}; copy or download it again") from error
        source = normalized_uri(name_or_path) if is_path(str(name_or_path)) else str(name_or_path)
        return cls(model, source, hashlib.sha256(identity.encode()).hexdigest(), revision)

    def to_config(self) -> dict[str, Any]:
        """Returns the JSON values of ``rabtriever.json`` that load the reranker again."""
        revision = {"cross_encoder_revision": self.revision} if self.revision else {}
        return {"cross_encoder": self.source, **revision}

    def describe(self) -> dict[str, Any]:
        """Returns, JSON-ready, its ``name``, its ``backend``, and how much of a pair it reads, ``max_tokens``."""
        return {"name": Path(self.source).name, "backend": "torch", "max_tokens": self.model.max_seq_length}

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: np.ndarray,
        *,
        with_states: bool = False,
        show_progress_bar: bool = False,
    ) -> Scores:
        """Scores the pairs int64 (n, 2) of (query, document) positions, in batches of similar length.

        Raises:
            InputError: ``with_states``.
            TextError: a blank text, or a pair whose score is NaN or infinite.
        """
        if with_states:
            raise InputError("a cross-encoder has no states z*: give the teacher's log-odds alone")
        from torch.nn import Identity

        pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
        check_texts("query", queries, np.unique(pairs[:, 0]).tolist())
        check_texts("document", documents, np.unique(pairs[:, 1]).tolist())
        # Equal pairs are scored once: side by side in a batch they could differ in the last digits.
        texts = [(queries[q].strip(), documents[d].strip()) for q, d in pairs.tolist()]
        distinct = {pair: row for row, pair in enumerate(dict.fromkeys(texts))}
        scores = self.model.predict(
            list(distinct),
            batch_size=BATCH_SIZE,
            activation_fn=Identity(),
            show_progress_bar=show_progress_bar,
        )
        log_odds = np.asarray(scores, np.float32)[[distinct[pair] for pair in texts]]
        bad = np.flatnonzero(~np.isfinite(log_odds))
        if len(bad):
            q, d = pairs[bad[0]].tolist()
            fault = f"with query {q} {shorten(queries[q])} has a score that is NaN or infinite; load it in float32"
            raise TextError("document", d, documents[d], fault)
        return Scores(log_odds)
