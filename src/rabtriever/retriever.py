"""The student: queries and documents encoded separately, scored together by the folded predictor."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from typing_extensions import Unpack

from rabtriever.caching import LRUCache
from rabtriever.deprecation import renamed
from rabtriever.encoders.base import Encoder, Kind
from rabtriever.encoders.loading import load_encoder
from rabtriever.errors import InputError, TextError, first_line
from rabtriever.llm.backbone import MAX_KV_CACHE_BYTES
from rabtriever.llm.loading import LoadOptions, hub_options
from rabtriever.persistence.folder import normalized_uri, read_config
from rabtriever.persistence.hub import find_retriever, upload_model
from rabtriever.persistence.storage import origin
from rabtriever.rerankers.base import Reranker
from rabtriever.retriever_folder import load_examples, load_models, save_retriever
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.examples import Examples
from rabtriever.scoring.fold import Fold, score_latents
from rabtriever.scoring.fusion import Fusion
from rabtriever.scoring.predictor import Predictor, load_predictor
from rabtriever.scoring.refusal import Refusal

if TYPE_CHECKING:
    from torch import Tensor

    from rabtriever.index.learned import Learned

MAX_CACHED_TEXT_LENGTH = 4096  # characters


class Rabtriever:
    """A retriever: an encoder's similarity, corrected by a predictor that was distilled (arXiv 2604.23336).

    Args:
        encoder: Texts to embeddings, frozen.
        predictor: The trained predictor over its embeddings; None: the encoder's similarity alone.
        calibration: Log-odds to probabilities; the identity if None.
        reranker: Scorer of the best documents, for searches that ask for it, or a function that loads it then.
        fusion: Weights of similarity and correction; if None, the correction alone, or without a predictor the
            similarity.
        trained_on: int64, :func:`rabtriever.scoring.fusion.text_keys` of the documents that it was trained on.
        refusal: When a search that may refuse returns nothing; if None, it can promise nothing.
        reranked_calibration: Fused log-odds of hits that the reranker read to probabilities; ``calibration`` if None.
        examples: Labelled queries, which pull those that are near to them to their documents; none if None.
        query_adapter: float32 (H, H), a linear map M of query embeddings that was fitted to labels: it adds
            ``<e_q M, e_d>`` to a score, as part of the correction; none if None.
        correction: Whether the correction counts, the predictor's and the query adapter's; False if feedback showed
            that it harms.
        query_cache: Number of queries whose encodings are cached; 0 caches none.
        document_cache: Number of documents whose latents are cached.

    Attributes:
        layout: Meaning of the latents' columns.
        dim: Number of columns of a latent, gain and bias included.
        fingerprint: Identifies everything that changes a document's latent or what a query's means. Examples and
            the query adapter do neither: they move queries alone.
        name_or_path: Folder it was loaded from or saved to, or its URI.

    Raises:
        InputError: no predictor, and an encoder without a similarity; examples or a query adapter, and no similarity in
            the score; or a query adapter of another size, or without a predictor.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: Predictor | None = None,
        calibration: Calibration | None = None,
        reranker: Reranker | Callable[[], Reranker] | None = None,
        *,
        fusion: Fusion | None = None,
        trained_on: np.ndarray | None = None,
        refusal: Refusal | None = None,
        reranked_calibration: Calibration | None = None,
        examples: Examples | None = None,
        query_adapter: np.ndarray | None = None,
        correction: bool = True,
        query_cache: int = 10_000,
        document_cache: int = 0,
    ) -> None:
        self.encoder, self.predictor, self._reranker = encoder, predictor.eval() if predictor else None, reranker
        self.calibration, self.refusal = calibration or Calibration(), refusal or Refusal()
        self.reranked_calibration = reranked_calibration or self.calibration
        self.fusion, self.examples = fusion or (Fusion() if predictor else Fusion.zero_shot()), examples
        self.correction, self.query_adapter = correction, query_adapter
        known = trained_on if predictor and trained_on is not None else np.empty(0, np.int64)
        self.trained_on = np.sort(known)
        if self.fusion.beta and not encoder.has_similarity:
            raise InputError("encoder: an LLM's states have no similarity to rank by; distil a predictor for it first")
        if examples is not None and not self.fusion.beta:
            raise InputError("examples: the score has no similarity that they could move; distil over an encoder")
        if query_adapter is not None:
            self.query_adapter = np.ascontiguousarray(query_adapter, np.float32)
            if not self.fusion.beta or predictor is None:
                raise InputError("query_adapter: the score has no similarity or no predictor; distil over an encoder")
            if query_adapter.shape != (width := encoder.hidden_size, width):
                shape = "x".join(map(str, query_adapter.shape))
                raise InputError(f"query_adapter: {shape}, its encoder gives {width} numbers; distil again")
        self.name_or_path: str | None = None
        folded = predictor.fold() if predictor else None
        self._fold = Fold(encoder.hidden_size, folded, self.fusion.beta, self.fusion.offset, self.fusion.center)
        self.layout, self.dim = self._fold.layout, self._fold.layout.dim
        self._query_cache: LRUCache[str, np.ndarray] = LRUCache(query_cache)
        self._document_cache: LRUCache[str, np.ndarray] = LRUCache(document_cache)
        fused = {**asdict(self.fusion), "rerank": None}  # which changes no latent
        if not self.fusion.center:  # as it was before there was any
            del fused["center"]
        parts = [encoder.fingerprint, predictor.weights_hash() if predictor else None, fused]
        described = json.dumps([*parts, hashlib.sha256(self.trained_on.tobytes()).hexdigest()], sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        query_cache: int = 10_000,
        document_cache: int = 0,
        kv_cache_bytes: int = MAX_KV_CACHE_BYTES,
        **options: Unpack[LoadOptions],
    ) -> Rabtriever:
        """Loads a retriever; its reranker is loaded when a search asks for it.

        Args:
            name_or_path: ``tools`` (the model that ships), a folder or URI that :meth:`save_pretrained` or
                `rabtriever distill` wrote, or a hub id ``owner/name``; or an encoder, as for :meth:`from_encoder`.
            revision: Branch, tag or commit of a hub id; the main branch if None.
            query_cache: See the class.
            document_cache: See the class.
            kv_cache_bytes: Memory for the reranker's document caches.
            **options: ``device``, ``dtype`` and ``backend`` of encoder and reranker; ``token`` and ``local_files_only``
                of the hub.

        Raises:
            InputError: no retriever there.
        """
        folder = find_retriever(name_or_path, revision=revision, **hub_options(options))
        if folder is None:
            caches = {"query_cache": query_cache, "document_cache": document_cache}
            return cls.from_encoder(name_or_path, revision=revision, **caches, **options)
        config = read_config(folder)
        if "encoder" not in config:
            hint = f"make one with `rabtriever distill DATA --teacher {folder}`"
            raise InputError(f"{folder}: a reranker, not a retriever; {hint}")
        try:
            calibrations = {name: Calibration(**values) for name, values in config["calibration"].items()}
            fusion = Fusion(**config["fusion"])
            refusal = Refusal.from_config(config["refusal"]) if "refusal" in config else None
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            raise InputError(f"{folder}: a broken retriever ({first_line(error)}); distill it again") from error
        encoder, reranker = load_models(folder, config, calibrations.get("reranker"), kv_cache_bytes, options)
        predictor, trained_on, query_adapter = load_predictor(folder, config)
        retriever = cls(
            encoder,
            predictor,
            calibrations.get("retriever"),
            reranker,
            fusion=fusion,
            trained_on=trained_on,
            refusal=refusal,
            reranked_calibration=calibrations.get("reranked"),
            examples=load_examples(folder, config),
            query_adapter=query_adapter,
            correction=config.get("correction", True),
            query_cache=query_cache,
            document_cache=document_cache,
        )
        retriever.name_or_path = origin(folder) or str(folder)
        return retriever

    @classmethod
    def from_encoder(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        query_cache: int = 10_000,
        document_cache: int = 0,
        **options: Any,  # noqa: ANN401
    ) -> Rabtriever:
        """Makes an untrained retriever, whose ranking is the encoder's.

        Args:
            name: What :func:`rabtriever.encoders.loading.load_encoder` takes: ``minilm``, ``mpnet``, a hub id or a
                folder of a sentence-transformers model.
            revision: Branch, tag or commit of a hub id; the main branch if None.
            query_cache: See the class.
            document_cache: See the class.
            **options: Of ``load_encoder``.

        Raises:
            InputError: no such encoder, or an LLM, which has no similarity before a predictor is distilled.
        """
        encoder = load_encoder(name, revision=revision, **options)
        retriever = cls(encoder, query_cache=query_cache, document_cache=document_cache)
        retriever.name_or_path = encoder.describe()["name"]
        return retriever

    @property
    def reranker(self) -> Reranker | None:
        """Scorer of the best hits, loaded at the first access; None if the retriever has none."""
        if callable(self._reranker):
            self._reranker = self._reranker()
        return self._reranker

    def drop_reranker(self) -> None:
        """Lets the retriever go on without a reranker, such as one whose LLM is not on this machine."""
        self._reranker = None

    def save_pretrained(
        self, folder: str | Path, notes: Mapping[str, Any] | None = None, log: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Writes the retriever and its reranker, so that the folder is also the reranker.

        Args:
            folder: To make, or its URI; it must not exist, or be empty.
            notes: Further JSON values for ``rabtriever.json``, such as how it was trained.
            log: Lines of its training, written to ``distill_log.jsonl``.

        Raises:
            InputError: ``folder`` exists, or there is no reranker to save.
        """
        save_retriever(self, folder, notes, log)
        self.name_or_path = normalized_uri(folder)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, commit_message: str | None = None
    ) -> str:
        """Uploads the retriever and its reranker to the Hugging Face hub.

        Args:
            repo_id: ``owner/name``; made if it does not exist.
            private: Whether a new repository is private; the owner's default if None.
            token: Access token; the one that is logged in if None.
            commit_message: Of the commit.

        Returns:
            The URL of the commit.

        Raises:
            InputError: the hub refuses or cannot be reached, or the LLM is a folder of this machine.
        """
        with tempfile.TemporaryDirectory() as temporary:
            save_retriever(self, folder := Path(temporary) / "model")
            return upload_model(folder, repo_id, private=private, token=token, commit_message=commit_message)

    def encode_query(
        self,
        inputs: str | Iterable[str],
        *,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        convert_to_tensor: bool = False,
    ) -> Any:  # noqa: ANN401
        """Encodes queries; those that are cached cost nothing.

        Args:
            inputs: A query, or several.
            batch_size: Maximum number of queries in a batch; None: as many as the encoder's token budget holds.
            show_progress_bar: Whether to show progress on stderr.
            convert_to_tensor: Whether to return a torch tensor instead of a NumPy array.

        Returns:
            float32 (dim,) of one query, (n, dim) of several; the last column is the bias.

        Raises:
            TextError: a query that is no text, has zero tokens, or whose encoding is NaN or infinite.
        """
        return self._encode("query", inputs, batch_size, show_progress_bar, convert_to_tensor)

    def encode_document(
        self,
        inputs: str | Iterable[str],
        *,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        convert_to_tensor: bool = False,
    ) -> Any:  # noqa: ANN401
        """Encodes documents; arguments, result and errors as in :meth:`encode_query`."""
        return self._encode("document", inputs, batch_size, show_progress_bar, convert_to_tensor)

    def with_learned(self, learned: Learned) -> Rabtriever:
        """Returns a retriever of the same models that remembers what an index's searches taught."""
        result = copy(self)
        result.examples, result.correction = learned.examples, learned.correction
        result.calibration = result.reranked_calibration = learned.calibration
        result.refusal, result.name_or_path = learned.refusal, None  # its folder holds another
        result._query_cache = LRUCache(self._query_cache.max_weight)
        return result

    def document_latents(self, states: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Returns the latents float32 (n, dim) of texts whose embeddings float32 (n, H) the encoder made."""
        return self._fold.document(states, self.fusion.gains(texts, self.trained_on))

    def query_latents(self, states: np.ndarray, examples: Examples | None, correction: bool = True) -> np.ndarray:
        """Returns the latents float32 (n, dim) of query embeddings float32 (n, H).

        Args:
            states: Of the encoder.
            examples: What moves the queries; None: nothing does.
            correction: Whether the correction counts, the predictor's and the query adapter's.
        """
        shift = examples.shift(states) if examples else None
        if not correction:
            return self._fold.similarity_only(self._fold.query(states, shift))
        adapted = None if self.query_adapter is None else states @ self.query_adapter
        shifts = [one for one in (shift, adapted) if one is not None]
        latents = self._fold.query(states, sum(shifts[1:], shifts[0]) if shifts else None)
        if examples and shift is not None and self.fusion.gain > self.fusion.new_gain:
            # Less of the gained term and more for all: it reaches documents of the smaller gain alone.
            less = examples.advantage(shift) / (self.fusion.gain - self.fusion.new_gain)
            latents[:, -2] -= less
            latents[:, -1] += self.fusion.gain * less
        return latents

    def encoder_only(self, latents: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Returns queries that rank by the encoder's similarity alone, without anything learnt.

        Args:
            latents: float32 (n, dim) from :meth:`encode_query`; not changed.
            texts: The queries. They are encoded again if there are examples or a query adapter, which the latents hold.

        Returns:
            float32 (n, dim); a score is ``beta <e_q, e_d> + offset``.

        Raises:
            InputError: the similarity has no part in this retriever's score, or none that can be told apart.
        """
        if (self.examples is not None or self.query_adapter is not None) and len(texts):
            latents = self._fold.query(self.encoder.encode_queries(texts))
        return self._fold.similarity_only(latents)

    def similarity(self, queries: np.ndarray | Tensor, documents: np.ndarray | Tensor) -> np.ndarray:
        """Returns the log-odds float32 (n, k) of every query and document.

        Args:
            queries: float32 (n, dim) or (dim,) from :meth:`encode_query`.
            documents: float32 (k, dim) or (dim,) from :meth:`encode_document`.
        """
        return score_latents(np.atleast_2d(np.asarray(queries)), np.atleast_2d(np.asarray(documents)), self.layout)

    def rank(self, query: str, documents: Iterable[str], top_k: int | None = None) -> list[dict[str, int | float]]:
        """Ranks documents from the most to the least probable, by the retriever alone.

        Returns:
            ``[{"corpus_id": position in documents, "score": probability}, ...]``, the ``top_k`` best or all; ties
            keep their order.

        Raises:
            InputError: ``top_k`` below 1, or a text of zero tokens.
        """
        log_odds = self.similarity(self.encode_query(query), self.encode_document(list(documents)))
        return self.calibration.rank(log_odds[0], top_k)

    @property
    def has_reranker(self) -> bool:
        """Whether there is a reranker, loaded or not."""
        return self._reranker is not None

    @property
    def rerank_share(self) -> float:
        """Share of a reranker's log-odds in the score of a hit that it read."""
        return self.fusion.rerank

    def cached_query(self, text: str) -> np.ndarray | None:
        """Returns a query's encoding float32 (dim,) if it is cached."""
        return self._query_cache.get(text)

    def cached_document(self, text: str) -> np.ndarray | None:
        """Returns a document's encoding float32 (dim,) if it is cached."""
        return self._document_cache.get(text)

    def clear_caches(self) -> None:
        """Drops all cached queries and documents."""
        self._query_cache.clear()
        self._document_cache.clear()

    teacher = renamed("reranker")
    source = renamed("name_or_path")
    known = renamed("cached_query", lambda self: {"query": self._query_cache, "document": self._document_cache})

    def _encode(
        self,
        kind: Kind,
        inputs: str | Iterable[str],
        batch_size: int | None,
        show_progress_bar: bool,
        convert_to_tensor: bool,
    ) -> Any:  # noqa: ANN401
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise TextError(kind, position, text, "is not a text; give a string or several")
        cache = self._query_cache if kind == "query" else self._document_cache
        found = {text: cache.get(text) for text in texts}
        rows = {text: row for text, row in found.items() if row is not None}
        if missing := [text for text in found if text not in rows]:
            try:
                latents = self._latents(kind, missing, batch_size, show_progress_bar)
            except TextError as error:
                raise error.at(texts.index(missing[error.position])) from None
            for text, latent in zip(missing, latents, strict=True):
                rows[text] = latent.copy()  # a view would hold all latents in memory
                if len(text) <= MAX_CACHED_TEXT_LENGTH:
                    cache.put(text, rows[text])
        result = np.stack([rows[text] for text in texts]) if texts else np.empty((0, self.dim), np.float32)
        if isinstance(inputs, str):
            result = result[0]
        return torch.from_numpy(result) if convert_to_tensor else result

    def _latents(self, kind: Kind, texts: list[str], batch_size: int | None, show_progress_bar: bool) -> np.ndarray:
        if kind == "query":
            states = self.encoder.encode_queries(texts, batch_size, show_progress_bar)
            latents = self.query_latents(states, self.examples, self.correction)
        else:
            states = self.encoder.encode_documents(texts, batch_size, show_progress_bar)
            latents = self.document_latents(states, texts)
        if bad := np.flatnonzero(~np.isfinite(latents).all(axis=1)).tolist():
            raise TextError(
                kind, bad[0], texts[bad[0]], "has NaN or infinite numbers in its encoding; load the encoder in float32"
            )
        return latents
