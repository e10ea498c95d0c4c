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

from rabtriever.errors import InputError, TextError, shorten
from rabtriever.llm.backbone import NOT_FINITE, NotFiniteError
from rabtriever.llm.loading import LoadOptions, hub_options, load_llm
from rabtriever.llm.presets import make_template
from rabtriever.llm.prompt import deduplicate
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
        calibration: Log-odds to probabilities; the identity if None.
    """

    has_states = True

    def __init__(self, llm: PromptedLLM, calibration: Calibration | None = None) -> None:
        self.llm = llm
        self.calibration = calibration or Calibration()
        self.fingerprint, self.numerics, self.adapter = llm.fingerprint, llm.numerics, llm.loaded.adapter

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        preset: str | None = None,
        task: str | None = None,
        document_name: str | None = None,
        query_name: str | None = None,
        revision: str | None = None,
        **options: Unpack[LoadOptions],
    ) -> GenerativeReranker:
        """Loads a reranker; arguments and errors as in :func:`load_reranker`."""
        folder = resolve_model(name_or_path, revision=revision, **hub_options(options))
        names = {k: v for k, v in (("document_name", document_name), ("query_name", query_name)) if v}
        if folder is None:
            loaded = load_llm(str(name_or_path), revision=revision, **options)
            return cls(PromptedLLM(loaded, make_template(preset or "plain", loaded.tokenizer, task, **names)))
        if preset or task:
            raise InputError(f"{name_or_path}: was saved with its prompt; leave out the preset and the task")
        config = read_config(folder)
        if "llm" not in config:
            raise InputError(f"{name_or_path}: a retriever without an LLM as its reranker; give another reranker")
        calibration = config.get("calibration", {}).get("reranker", {})
        return cls(PromptedLLM.from_folder(folder, **options), Calibration(**calibration))

    def to_config(self) -> dict[str, Any]:
        """Returns the JSON values of ``rabtriever.json`` that load the reranker again."""
        return self.llm.to_config()

    def describe(self) -> dict[str, Any]:
        """Returns, JSON-ready, its ``name``, ``backend``, ``prompt_hash``, and ``choices`` with their token ids."""
        prompt = json.dumps(self.llm.template.to_dict(), sort_keys=True)
        tokens, decode = zip(("yes", "no"), self.llm.prompt.choice_ids, strict=True), self.llm.loaded.tokenizer.decode
        return {
            "name": Path(self.llm.loaded.source).name,
            "backend": self.llm.loaded.backend,
            "prompt_hash": hashlib.sha256(prompt.encode()).hexdigest(),
            "choices": {name: {"id": token, "text": decode([token])} for name, token in tokens},
        }

    def predict(self, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
        """Returns the probability float32 (n,) that each document is relevant to its query.

        Args:
            pairs: (query, document) texts.

        Raises:
            InputError: something that is not a pair, or an error of :meth:`score`.
        """
        pairs = list(pairs)
        if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
            raise InputError("predict: expected a list of (query, document) pairs; wrap a single pair in a list")
        queries, documents = [query for query, _ in pairs], [document for _, document in pairs]
        log_odds = self.score(queries, documents, np.arange(len(pairs)).repeat(2).reshape(-1, 2)).log_odds
        return self.calibration.probability(log_odds).astype(np.float32)

    def rank(self, query: str, documents: Iterable[str], top_k: int | None = None) -> list[dict[str, int | float]]:
        """Ranks documents from the most to the least probable.

        Returns:
            ``[{"corpus_id": position in documents, "score": probability}, ...]``, the ``top_k`` best or all; ties
            keep their order.

        Raises:
            InputError: ``top_k`` below 1, or a text of zero tokens.
        """
        return self.calibration.rank(self.log_odds([query], list(documents))[0], top_k)

    def log_odds(self, queries: Sequence[str], documents: Sequence[str], show_progress_bar: bool = False) -> np.ndarray:
        """Returns the log-odds of every query and document, float32 (n, k); errors as in :meth:`score`."""
        pairs = np.indices((len(queries), len(documents))).reshape(2, -1).T
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
        """Scores pairs of queries and documents; only texts that occur in ``pairs`` are tokenised.

        Args:
            queries: Texts.
            documents: Texts.
            pairs: int64 (n, 2) of (query, document) positions.
            with_states: Whether to return z*(q, d), too; without them, memory does not grow with n H.
            show_progress_bar: Whether to show progress on stderr.

        Raises:
            TextError: a text of zero tokens, or a pair whose state is NaN or infinite.
        """
        sides = np.asarray(pairs, np.int64).reshape(-1, 2).T
        query_ids, query_of = self._tokenize("query", queries, sides[0])
        document_ids, document_of = self._tokenize("document", documents, sides[1])
        # Equal pairs are scored once: side by side in a batch they could differ in the last digits.
        distinct, row_of = np.unique(np.stack([query_of, document_of], axis=1), axis=0, return_inverse=True)
        batches = self.llm.backbone.pair_states(
            document_ids, query_ids, torch.from_numpy(distinct), "scoring pairs" if show_progress_bar else None
        )
        log_odds = torch.empty(len(distinct))
        states = torch.empty(len(distinct), self.llm.hidden_size) if with_states else None
        try:
            for rows, batch in batches:
                log_odds[rows] = batch @ self.llm.choice_direction
                if states is not None:
                    states[rows] = batch
        except NotFiniteError as error:
            q, d = sides[:, row_of.tolist().index(error.position)].tolist()
            query = f"with query {q} {shorten(queries[q])}"
            raise TextError("document", d, documents[d], f"{query} {NOT_FINITE}") from None
        return Scores(log_odds.numpy()[row_of], None if states is None else states.numpy()[row_of])

    def _tokenize(
        self, kind: str, texts: Sequence[str], positions: np.ndarray
    ) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """Returns the distinct token ids of the texts at ``positions`` (n,), and each position's row of them, (n,)."""
        used, row_of = np.unique(positions, return_inverse=True)
        tokenize = self.llm.prompt.query_ids if kind == "query" else self.llm.prompt.document_ids
        try:
            distinct, rows = deduplicate(tokenize([texts[i] for i in used]))
        except TextError as error:
            raise error.at(int(used[error.position])) from None
        return distinct, rows[row_of]


def load_reranker(
    name_or_path: str | Path,
    *,
    preset: str | None = None,
    task: str | None = None,
    document_name: str | None = None,
    query_name: str | None = None,
    revision: str | None = None,
    **options: Unpack[LoadOptions],
) -> GenerativeReranker:
    """Loads a reranker.

    Args:
        name_or_path: ``tools`` (the model that ships), a folder of `rabtriever train` or `rabtriever distill`, a hub id
            ``owner/name`` of such a model, or an LLM, which is used as it is with the default prompt.
        revision: Branch, tag or commit of a hub id; the main branch if None.
        **options: ``device``, ``dtype`` and ``backend`` of the LLM; ``token`` and ``local_files_only`` of the hub.

    Raises:
        InputError: no model there.
    """
    return GenerativeReranker.from_pretrained(
        name_or_path,
        preset=preset,
        task=task,
        document_name=document_name,
        query_name=query_name,
        revision=revision,
        **options,
    )
