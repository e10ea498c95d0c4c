"""The paper's teacher: an LLM that reads a document, then a query, and chooses between two tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import Unpack

from rabtriever.errors import InputError
from rabtriever.llm.loading import LoadOptions, load_llm
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.persistence.folder import read_config
from rabtriever.persistence.hub import resolve_model
from rabtriever.rerankers.base import Scores
from rabtriever.scoring.calibration import Calibration


class GenerativeReranker:
    """Scores (query, document) pairs by an LLM's choice between two tokens (LaHoRe, arXiv 2412.16615).

    Documents come first in the prompt, so a document's key/value cache is computed once for all queries of a call, and
    cached for further calls.

    Args:
        llm: The LLM and the prompt it was trained with.
        calibration: What makes its log-odds probabilities; the identity if None.
    """

    def __init__(self, llm: PromptedLLM, calibration: Calibration | None = None) -> None:
        self.llm = llm
        self.calibration = calibration or Calibration()
        self.fingerprint = llm.fingerprint

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, revision: str | None = None, **options: Unpack[LoadOptions]
    ) -> GenerativeReranker:
        """Loads a reranker, the reranker in a retriever's folder, or an LLM as it is with the default prompt.

        Args:
            name_or_path: ``tools`` (the model that ships), a folder or hub id of ours, or what
                :func:`rabtriever.llm.loading.load_llm` takes.
            revision: Branch, tag or commit of a hub id; the main branch if None.
            **options: ``device``, ``dtype`` and ``backend`` of the LLM; ``token`` and ``local_files_only`` of the hub.

        Raises:
            InputError: no model there.
        """
        folder = resolve_model(
            name_or_path,
            revision=revision,
            token=options.get("token"),
            local_files_only=options.get("local_files_only", False),
        )
        if folder is None:
            return cls(PromptedLLM(load_llm(str(name_or_path), revision=revision, **options), PromptTemplate()))
        calibration = read_config(folder).get("calibration", {}).get("reranker", {})
        return cls(PromptedLLM.from_folder(folder, **options), Calibration(**calibration))

    def describe(self) -> dict[str, Any]:
        """Returns, JSON-ready, its ``llm``, ``backend``, ``prompt_hash``, and ``choices`` with their token ids."""
        prompt = json.dumps(self.llm.template.to_dict(), sort_keys=True)
        tokens = zip(("yes", "no"), self.llm.prompt.choice_ids, strict=True)
        return {
            "llm": Path(self.llm.loaded.source).name,
            "backend": self.llm.loaded.backend,
            "prompt_hash": hashlib.sha256(prompt.encode()).hexdigest(),
            "choices": {
                name: {"id": token, "text": self.llm.loaded.tokenizer.decode([token])} for name, token in tokens
            },
        }

    def predict(self, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
        """Returns the probability that each document is relevant to its query.

        Args:
            pairs: (query, document) texts.

        Returns:
            float32 (n,).

        Raises:
            InputError: a text of zero tokens, or something that is not a pair.
        """
        pairs = list(pairs)
        if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
            raise InputError("predict: expected a list of (query, document) pairs; wrap a single pair in a list")
        queries, documents = ({text: None for text in side} for side in zip(*pairs, strict=True)) if pairs else ({}, {})
        rows = {text: i for i, text in enumerate(queries)}, {text: i for i, text in enumerate(documents)}
        positions = np.array([(rows[0][query], rows[1][document]) for query, document in pairs]).reshape(-1, 2)
        log_odds = self.score(list(queries), list(documents), positions).log_odds
        return self.calibration.probability(log_odds).astype(np.float32)

    def rank(self, query: str, documents: Iterable[str], top_k: int | None = None) -> list[dict[str, int | float]]:
        """Ranks documents from the most to the least probable.

        Args:
            query: The query.
            documents: Candidate texts.
            top_k: How many to return; all if None.

        Returns:
            ``[{"corpus_id": position in documents, "score": probability}, ...]``; ties keep their order.

        Raises:
            InputError: ``top_k`` below 1, or a text of zero tokens.
        """
        return self.calibration.rank(self.log_odds([query], list(documents))[0], top_k)

    def log_odds(self, queries: Sequence[str], documents: Sequence[str], show_progress_bar: bool = False) -> np.ndarray:
        """Scores every query against every document: float32 (n, k)."""
        rows, columns = np.divmod(np.arange(len(queries) * len(documents)), max(1, len(documents)))
        pairs = np.stack([rows, columns], axis=1)
        scores = self.score(queries, documents, pairs, show_progress_bar=show_progress_bar)
        return scores.log_odds.reshape(len(queries), len(documents))

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: np.ndarray,
        *,
        with_states: bool = False,
        show_progress_bar: bool = False,
    ) -> Scores:
        """Scores pairs of queries and documents; only those that occur in ``pairs`` are tokenised and read.

        Args:
            queries: Texts.
            documents: Texts.
            pairs: int64 (n, 2) of (query, document) positions.
            with_states: Whether to return the context embeddings z*(q, d), (n, H), too.
            show_progress_bar: Whether to show progress on stderr.

        Raises:
            InputError: a text of zero tokens, or a pair of which the LLM makes no finite state.
        """
        sides = np.asarray(pairs, np.int64).reshape(-1, 2).T
        (query_rows, query_of), (document_rows, document_of) = (np.unique(side, return_inverse=True) for side in sides)
        query_ids = self.llm.prompt.query_ids([queries[i] for i in query_rows])
        document_ids = self.llm.prompt.document_ids([documents[i] for i in document_rows])
        log_odds = torch.empty(len(query_of))
        states = torch.empty(len(query_of), self.llm.hidden_size) if with_states else None
        label = "scoring pairs" if show_progress_bar else None
        batches = self.llm.backbone.pair_states(
            document_ids, query_ids, torch.from_numpy(np.stack([query_of, document_of], axis=1)), label
        )
        for rows, of_batch in batches:
            log_odds[rows] = of_batch @ self.llm.choice_direction
            if states is not None:
                states[rows] = of_batch
        return Scores(log_odds.numpy(), None if states is None else states.numpy())
