"""The teacher: an LLM that reads a document, then a query, and says yes or no."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rabtriever.calibration import Calibration
from rabtriever.errors import InputError
from rabtriever.llm.backbone import Backbone
from rabtriever.llm.backends import make_reader
from rabtriever.llm.folder import ADAPTER, CONFIG, read_config
from rabtriever.llm.loading import LLM, head_row, load_llm
from rabtriever.llm.prompt import Prompt, PromptTemplate


class GenerativeReranker:
    """Scores (query, document) pairs by the LLM's choice between two tokens (LaHoRe, arXiv 2412.16615).

    Documents come first in the prompt, so a document's key/value cache is computed once for all queries of a call, and
    kept for the next call over the same documents.

    Args:
        llm: The LLM, its adapter merged.
        template: The prompt it was trained with.
        calibration: What makes its log-odds a probability.
    """

    def __init__(self, llm: LLM, template: PromptTemplate, calibration: Calibration | None = None) -> None:
        self.llm, self.template = llm, template
        self.calibration = calibration or Calibration()
        self.prompt = Prompt(template, llm.tokenizer)
        self.backbone = Backbone(llm.model, lambda: make_reader(llm.model, llm.backend, self.prompt.heads))
        self.backbone.check_length(self.prompt.max_tokens)
        self.w: Tensor = head_row(llm.model, self.prompt.choice_ids).cpu()
        described = json.dumps([llm.digest, template.to_dict()], sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> GenerativeReranker:  # noqa: ANN401
        """Load a reranker, the teacher inside a retriever's folder, or an LLM as it is with the default prompt.

        Args:
            source: A folder of ours, or what :func:`rabtriever.llm.loading.load_llm` takes.
            **options: ``dtype``, ``device`` and ``backend`` of the LLM.

        Raises:
            InputError: no model there.
        """
        if not (Path(source) / CONFIG).is_file():
            return cls(load_llm(str(source), **options), PromptTemplate())
        config = read_config(source)
        adapter = Path(source) / ADAPTER
        template = PromptTemplate.from_dict(config["prompt"])
        calibration = Calibration(**config.get("calibration", {}).get("reranker", {}))
        return cls(load_llm(config["llm"], adapter if adapter.is_dir() else None, **options), template, calibration)

    def predict(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Probability that the document is right for the query.

        Args:
            pairs: (query, document) texts.

        Returns:
            float32 (n,).

        Raises:
            InputError: a text of zero tokens, or something that is no pair.
        """
        if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
            raise InputError("predict: expected a list of (query, document) pairs; wrap a single pair in a list")
        queries, documents = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True)) if pairs else ([], [])
        places = {text: i for i, text in enumerate(queries)}, {text: i for i, text in enumerate(documents)}
        wanted = torch.tensor([[places[0][q], places[1][d]] for q, d in pairs]).view(-1, 2)
        log_odds = (self.context_embeddings(queries, documents, wanted) @ self.w).numpy()
        return self.calibration.probability(log_odds).astype(np.float32)

    def rank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[dict[str, int | float]]:
        """Documents from the most to the least probable.

        Args:
            query: The query.
            documents: Candidate texts.
            top_k: How many to return; all if None.

        Returns:
            ``[{"corpus_id": position in documents, "score": probability}, ...]``; ties keep their order.

        Raises:
            InputError: ``top_k`` below 1, or a text of zero tokens.
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k {top_k}: ask for at least one document")
        log_odds = self.log_odds([query], documents)[0]
        order = np.argsort(-log_odds, kind="stable")[:top_k]
        probabilities = self.calibration.probability(log_odds)
        return [{"corpus_id": int(i), "score": float(probabilities[i])} for i in order]

    def log_odds(self, queries: Sequence[str], documents: Sequence[str], progress: str | None = None) -> np.ndarray:
        """Every query against every document.

        Args:
            queries: n texts.
            documents: k texts.
            progress: What to call the work on stderr; None shows nothing.

        Returns:
            float32 (n, k): logit(yes) - logit(no).
        """
        pairs = torch.cartesian_prod(torch.arange(len(queries)), torch.arange(len(documents)))
        states = self.context_embeddings(queries, documents, pairs, progress)
        return (states @ self.w).view(len(queries), len(documents)).numpy()

    def context_embeddings(
        self, queries: Sequence[str], documents: Sequence[str], pairs: Tensor, progress: str | None = None
    ) -> Tensor:
        """The teacher's document-aware query embeddings z*(q, d).

        Args:
            queries: Texts.
            documents: Texts.
            pairs: int64 (n, 2) of (query, document) positions.
            progress: What to call the work on stderr; None shows nothing.

        Returns:
            float32 (n, H), the last prompt token's state after the final norm.
        """
        return self.backbone.pair_states(
            self.prompt.document_ids(documents), self.prompt.query_ids(queries), pairs, progress
        )
