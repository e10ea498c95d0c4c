"""The paper's teacher: an LLM that reads a document, then a query, and chooses between two tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import Unpack

from rabtriever.errors import InputError, TextError, shorten
from rabtriever.llm.backbone import NOT_FINITE, NotFiniteError
from rabtriever.llm.loading import LoadOptions, hub_options, load_llm
from rabtriever.llm.presets import PresetOptions, make_template
from rabtriever.llm.prompt import deduplicate
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.persistence.folder import read_config
from rabtriever.persistence.hub import resolve_model
from rabtriever.rerankers.base import PairScorer, Scores
from rabtriever.rerankers.remote.options import RemoteOptions
from rabtriever.scoring.calibration import Calibration


class RerankerOptions(LoadOptions, PresetOptions, total=False):
    """Options of everything that loads a reranker: of the LLM, of the hub, of the prompt, of a server.

    Attributes:
        preset: One of :data:`rabtriever.choices.PRESETS`; ``plain`` by default.
        remote: Of a reranker behind HTTP.
    """

    preset: str | None
    remote: RemoteOptions | None


class GenerativeReranker(PairScorer):
    """Scores (query, document) pairs by an LLM's choice between two tokens (LaHoRe, arXiv 2412.16615).

    The key/value cache of what comes first in the prompt, the document unless the template says otherwise, is computed
    once for all pairs of a call, and cached for further calls.

    Args:
        llm: The LLM and the prompt it was trained with.
        calibration: Log-odds to probabilities; the identity if None.
    """

    has_states = True

    def __init__(self, llm: PromptedLLM, calibration: Calibration | None = None) -> None:
        self.llm = llm
        self.calibration = calibration or Calibration()
        self.fingerprint, self.numerics, self.adapter = llm.fingerprint, llm.numerics, llm.loaded.adapter
        self.group_by = "query" if llm.template.query_first else "document"

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, revision: str | None = None, **options: Unpack[RerankerOptions]
    ) -> GenerativeReranker:
        """Loads a reranker; arguments and errors as in :func:`rabtriever.rerankers.loading.load_reranker`."""
        loading: Any = {name: value for name, value in options.items() if name in LoadOptions.__annotations__}
        prompting: Any = {name: value for name, value in options.items() if name in PresetOptions.__annotations__}
        folder = resolve_model(name_or_path, revision=revision, **hub_options(loading))
        if folder is None:
            llm = load_llm(str(name_or_path), revision=revision, **loading)
            template = make_template(options.get("preset") or "plain", llm.tokenizer, **prompting)
            return cls(PromptedLLM(llm, template))
        if options.get("preset") or any(prompting.values()):
            raise InputError(f"{name_or_path}: it was saved with its prompt; leave out preset and task", param="preset")
        config = read_config(folder)
        if "llm" not in config:
            raise InputError(f"{name_or_path}: a retriever without an LLM as its reranker; give another reranker")
        calibration = config.get("calibration", {}).get("reranker", {})
        return cls(PromptedLLM.from_folder(folder, **loading), Calibration(**calibration))

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
        texts, sides = (queries, documents), np.asarray(pairs, np.int64).reshape(-1, 2).T
        first, second = self._order
        first_ids, first_of = self._tokenize(first, texts[first], sides[first])
        second_ids, second_of = self._tokenize(second, texts[second], sides[second])
        # Equal pairs are scored once: side by side in a batch they could differ in the last digits.
        distinct, row_of = np.unique(np.stack([second_of, first_of], axis=1), axis=0, return_inverse=True)
        batches = self.llm.backbone.pair_states(
            first_ids, second_ids, torch.from_numpy(distinct), "scoring pairs" if show_progress_bar else None
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

    def choice_mass(self, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray) -> np.ndarray:
        """Returns the probability float32 (n,) that the LLM's next token is one of the two choices.

        Where it is small the prompt does not make the LLM choose, and the log-odds compare two accidents.
        """
        states = self.score(queries, documents, pairs, with_states=True).states
        return self.llm.loaded.token_probability(torch.from_numpy(states), self.llm.prompt.choice_ids).numpy()

    @property
    def _order(self) -> tuple[int, int]:
        """Which of query (0) and document (1) comes first in the prompt, and which second."""
        return (0, 1) if self.llm.template.query_first else (1, 0)

    def _tokenize(
        self, side: int, texts: Sequence[str], positions: np.ndarray
    ) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """Returns the distinct token ids of the texts at ``positions`` (n,), and each position's row of them, (n,)."""
        used, row_of = np.unique(positions, return_inverse=True)
        tokenize = (self.llm.prompt.query_ids, self.llm.prompt.document_ids)[side]
        try:
            distinct, rows = deduplicate(tokenize([texts[i] for i in used], with_bos=side == self._order[0]))
        except TextError as error:
            raise error.at(int(used[error.position])) from None
        return distinct, rows[row_of]
