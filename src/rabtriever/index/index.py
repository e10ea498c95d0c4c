"""An index: documents and their latents in a Lance table, searched by the retriever that made them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.fold import folded_scores
from rabtriever.index.codes import PRECISIONS
from rabtriever.index.segments import Segments
from rabtriever.index.store import Model, Store, readable
from rabtriever.index.view import View
from rabtriever.llm.folder import new_folder
from rabtriever.progress import Progress
from rabtriever.retriever import Rabtriever

BATCH = 1024  # documents encoded and written at a time
MODES = ("auto", "exact", "ann")
HYBRIDS = ("union", "rrf")
RRF = 60  # of reciprocal-rank fusion: 1 / (RRF + rank), Cormack et al. 2009
KEEP = timedelta(days=7)  # how long versions are kept, at least


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        id: The document's id.
        probability: That the document is right for the query: its log-odds, calibrated.
        log_odds: The ranking key; the retriever's, or the reranker's where it was asked.
        text: The document as the models read it.
        metadata: As it was added.
    """

    id: str
    probability: float
    log_odds: float
    text: str
    metadata: dict[str, Any]


class Index:
    """Documents at rest. Make one with :meth:`create`, :meth:`build` or :meth:`open`.

    Args:
        store: The table.
        retriever: The retriever that made, and will make, its latents.
        precision: Of what a search reads first: ``int8``, ``float16`` or ``float32``. Hits and log-odds are the same.
        version: A version of the past, to read; the latest if None.
        device: Where torch holds and scans the latents, such as ``cuda``; None: the CPU's kernel does, whatever the
            retriever runs on.
    """

    def __init__(
        self,
        store: Store,
        retriever: Rabtriever,
        precision: str = "int8",
        version: int | None = None,
        device: str | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        self.store, self.retriever, self.version = store, retriever, version
        model = store.model
        self._segments = Segments(store.uri, model.fingerprint, model.positive, precision, device)
        self._view: View | None = None
        self._lock = Lock()
        if version is not None:
            self._view = View.of(store.snapshot(version), self._segments, tidy=False)

    @classmethod
    def create(cls, uri: str | Path, retriever: Rabtriever) -> Index:
        """Make an empty index.

        Args:
            uri: Folder or object-store URI.
            retriever: Whose latents it will hold.

        Raises:
            InputError: something stands at ``uri`` already.
        """
        source = None if retriever.source is None else str(Path(retriever.source).resolve())
        model = Model(retriever.fingerprint, retriever.dim - 1, retriever.positive, source)
        return cls(Store.create(str(uri), model), retriever)

    @classmethod
    def build(
        cls, uri: str | Path, retriever: Rabtriever, documents: Iterable[Document], show_progress: bool = False
    ) -> Index:
        """Make an index of these documents, whole or not at all.

        Raises:
            InputError: something stands at ``uri`` already, no documents, or a bad one (see :meth:`add`).
        """
        if "://" not in str(uri):
            with new_folder(uri) as folder:
                cls.create(folder, retriever)._fill(documents, show_progress)
            index = cls.open(uri, retriever)
        else:
            index = cls.create(uri, retriever)
            try:
                index._fill(documents, show_progress)
            except BaseException:
                index.store.drop()
                raise
        index._warm()
        return index

    @classmethod
    def open(
        cls,
        uri: str | Path,
        retriever: Rabtriever | None = None,
        precision: str = "int8",
        version: int | None = None,
        device: str | None = None,
    ) -> Index:
        """Open an index.

        Args:
            uri: Folder or object-store URI.
            retriever: The one that made it; loaded from where it was then, if None.
            precision: Of what a search reads first: ``int8``, ``float16`` or ``float32``; hits stay the same.
            version: One of :meth:`versions`, to read; the latest, and what will be, if None.
            device: Where torch holds and scans the latents, such as ``cuda``; None: the CPU's kernel does.

        Raises:
            InputError: no index there or a damaged one, no such version, its model is not to be found, or ``retriever``
                is another model.
        """
        store = Store.open(str(uri))
        if retriever is None:
            if store.model.source is None:
                raise InputError(f"{uri}: does not tell where its model lies; give the retriever (--model)")
            if not Path(store.model.source).is_dir():
                raise InputError(f"{uri}: its model {store.model.source} is gone; give the retriever (--model)")
            retriever = Rabtriever.from_pretrained(store.model.source)
        if retriever.fingerprint != store.model.fingerprint:
            made, given = store.model.fingerprint[:12], retriever.fingerprint[:12]
            raise InputError(f"{uri}: made by model {made}, not by {given}; open it with its own model or index again")
        return cls(store, retriever, precision, version, device)

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.store) if self.version is None else len(self._opened().snapshot.keys)

    def add(
        self, documents: Iterable[Document], latents: Iterable[np.ndarray] | None = None, show_progress: bool = False
    ) -> None:
        """Add documents in one transaction: all of them or, on an error, none.

        Args:
            documents: Read as a stream; memory stays constant but for their ids.
            latents: Their latents as :meth:`Rabtriever.encode_document` makes them, float32 (m + 1,) each, if they were
                made elsewhere; encoded here if None.
            show_progress: Tell on stderr how far it is.

        Raises:
            InputError: an id that is there already or comes twice, a document without text, latents that are not
                finite or not of this model's width, another writer, or no room.
        """
        with self._writing():
            self.store.add(self._encoded(documents, latents, show_progress, replace=False), replace=False)

    def upsert(
        self, documents: Iterable[Document], latents: Iterable[np.ndarray] | None = None, show_progress: bool = False
    ) -> None:
        """As :meth:`add`, but documents whose ids are there already take the place of those."""
        with self._writing():
            self.store.add(self._encoded(documents, latents, show_progress, replace=True), replace=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents.

        Raises:
            InputError: an id that is not there; nothing is removed then. Or another writer.
        """
        if isinstance(ids, str):
            raise InputError(f"delete: expected a list of ids, got {ids!r}; wrap it in a list")
        with self._writing():
            missing = sorted(set(ids) - self.store.known(ids))
            if missing:
                raise InputError(f"delete: no document {missing[0]!r} in the index")
            if ids:
                self.store.delete(ids)

    def optimize(self, keep: timedelta = KEEP) -> None:
        """Join small files, bring the text index up to date, forget versions older than ``keep``.

        Raises:
            InputError: another writer.
        """
        with self._writing():
            self.store.optimize(keep)
        self._warm()

    def versions(self) -> list[dict[str, Any]]:
        """Every version that can be opened, the oldest first: ``version``, ``time`` (ISO 8601) and ``documents``."""
        return self.store.versions()

    def restore(self, version: int) -> None:
        """Make an older version the latest again; it becomes a new one, so that nothing is lost.

        Raises:
            InputError: no such version, or another writer.
        """
        with self._writing():
            self.store.snapshot(version)
            self.store.restore(version)

    def info(self) -> dict[str, Any]:
        """What there is: documents, model, version, bytes on disk (of the table, of segments) and in memory."""
        view = self._opened()
        segments = [path for path in self._segments.folder.rglob("*") if path.is_file()]
        return {
            "uri": self.store.uri,
            "documents": len(view.snapshot.keys),
            "model": self.store.model.source,
            "fingerprint": self.store.model.fingerprint,
            "width": self.store.model.width,
            "predictor": "quadratic" if self.store.model.positive is None else "mlp",
            "precision": self._segments.precision,
            "version": view.snapshot.version,
            "versions": len(self.versions()),
            "table_bytes": self.store.bytes(),
            "segment_bytes": sum(path.stat().st_size for path in segments),
            "memory_bytes": view.memory(),
            "segments": len(view.parts),
            "clusters": sum(len(part.segment.centres) for part in view.parts),
            "text_index": view.snapshot.has_words(),
        }

    def search(
        self,
        texts: str | Sequence[str],
        k: int = 10,
        where: str | None = None,
        rerank: int | None = None,
        mode: str = "auto",
        hybrid: str | None = None,
    ) -> list[list[Hit]]:
        """The best documents for each query, by the folded score.

        Args:
            texts: A query or a list of them.
            k: Hits a query; all if there are fewer documents.
            where: SQL condition over ``id``, ``title``, ``text`` and metadata, such as ``title LIKE 'A%'`` or
                ``json_get_int(metadata, 'year') > 2001`` (also ``json_get_string``, ``json_get_bool``, ...).
            rerank: How many of the best the reranker judges; they come first, with its log-odds.
            mode: ``exact``: the best of all documents. ``ann``: of a small share of them, the likeliest. ``auto``:
                exact as long as that takes 20 ms a query, as measured in this process.
            hybrid: ``union``: BM25's best documents are candidates too. ``rrf``: order by reciprocal-rank fusion of
                both rankings. None: the retriever alone.

        Returns:
            For each query its hits, best first; ties in the order of insertion.

        Raises:
            InputError: ``k`` or ``rerank`` below 1, an unknown ``mode`` or ``hybrid``, ``hybrid`` without a text
                index, a ``where`` that cannot be read, or a query of zero tokens.
        """
        if k < 1:
            raise InputError(f"k {k}: ask for at least one hit")
        if rerank is not None and rerank < 1:
            raise InputError(f"rerank {rerank}: let the reranker judge at least one document")
        if mode not in MODES:
            raise InputError(f"mode {mode!r}: choose one of {', '.join(MODES)}")
        if hybrid is not None and hybrid not in HYBRIDS:
            raise InputError(f"hybrid {hybrid!r}: choose one of {', '.join(HYBRIDS)}")
        queries = [texts] if isinstance(texts, str) else list(texts)
        view = self._opened()
        only = None if where is None else view.snapshot.matching(where)
        vectors, depth = self.retriever.encode_query(queries), max(k, rerank or 0)
        found = view.search(vectors, depth if hybrid != "rrf" else max(RRF, 4 * depth), mode, only)
        if hybrid is not None:
            found = [
                self._fused(view, query, vector, ranking, where, hybrid, depth)
                for query, vector, ranking in zip(queries, vectors, found, strict=True)
            ]
        return [
            self._hits(view, query, ordinals, log_odds, k, rerank)
            for query, (ordinals, log_odds) in zip(queries, found, strict=True)
        ]

    def _opened(self) -> View:
        """The version to read: the one that was asked for, or the latest."""
        with self._lock:
            version = self.store.version if self.version is None else self.version
            if self._view is None or self._view.snapshot.version != version:
                with readable(self.store.uri):
                    self._view = View.of(self.store.snapshot(), self._segments, self._view)
            return self._view

    def _warm(self) -> None:
        """Make segments and compile the kernel, so that no query has to wait for it."""
        self._opened().search(np.zeros((2, self.store.model.width + 1), np.float32), 1, "exact")

    def _writing(self) -> AbstractContextManager[Any]:
        if self.version is not None:
            raise InputError(f"version {self.version} was opened to read; open the index without it to change it")
        return self.store.writing()

    def _fill(self, documents: Iterable[Document], show_progress: bool) -> None:
        self.add(documents, show_progress=show_progress)
        if not len(self):
            raise InputError("no documents: an index needs at least one")
        self.store.optimize(KEEP)

    def _fused(
        self,
        view: View,
        query: str,
        vector: np.ndarray,
        ranking: tuple[np.ndarray, np.ndarray],
        where: str | None,
        hybrid: str,
        k: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A ranking and BM25's as one: ordinals and the retriever's log-odds of each."""
        lexical = view.snapshot.lexical(query, max(RRF, 4 * k), where)
        scores = dict(zip(ranking[0].tolist(), ranking[1].tolist(), strict=True))
        new = np.array(sorted(set(lexical.tolist()) - scores.keys()), np.int64)
        for ordinals, latents in view.snapshot.latents(new):
            found = folded_scores(vector[None], latents, self.store.model.positive)[0]
            scores.update(zip(ordinals.tolist(), found.tolist(), strict=True))
        value = scores
        if hybrid == "rrf":
            value = dict.fromkeys(scores, 0.0)
            for places in (ranking[0], lexical):
                for rank, ordinal in enumerate(places.tolist(), 1):
                    value[ordinal] += 1 / (RRF + rank)
        best = sorted(scores, key=lambda ordinal: (-value[ordinal], ordinal))[:k]
        return np.array(best, np.int64), np.array([scores[ordinal] for ordinal in best], np.float32)

    def _hits(
        self, view: View, query: str, ordinals: np.ndarray, log_odds: np.ndarray, k: int, rerank: int | None
    ) -> list[Hit]:
        with readable(self.store.uri):
            scored = list(zip(view.snapshot.documents(ordinals), log_odds.tolist(), strict=True))
        judges = [self.retriever.calibration] * len(scored)
        if rerank is not None and scored:
            judged = [document for document, _ in scored[:rerank]]
            theirs = self.retriever.teacher.log_odds([query], [document.content for document in judged])[0]
            scored[:rerank] = sorted(zip(judged, theirs.tolist(), strict=True), key=lambda pair: -pair[1])
            judges[:rerank] = [self.retriever.teacher.calibration] * len(judged)
        return [
            Hit(document.id, float(judge.probability(score)), score, document.content, dict(document.metadata))
            for (document, score), judge in zip(scored[:k], judges, strict=False)
        ]

    def _encoded(
        self, documents: Iterable[Document], latents: Iterable[np.ndarray] | None, show: bool, replace: bool
    ) -> Iterator[tuple[list[Document], np.ndarray]]:
        seen: set[str] = set()
        stream, given = iter(documents), None if latents is None else iter(latents)
        with Progress("documents indexed" if show else None) as bar:
            while batch := list(islice(stream, BATCH)):
                known = set() if replace else self.store.known([document.id for document in batch])
                for document in batch:
                    if not document.id or document.id in seen or document.id in known:
                        raise InputError(f"add: document id {document.id!r} is empty or there already; ids must differ")
                    seen.add(document.id)
                if given is None:
                    values = self.retriever.encode_document([document.content for document in batch])
                else:
                    values = self._given(batch, list(islice(given, len(batch))))
                wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
                if len(wrong):
                    raise InputError(f"add: the latent of document {batch[wrong[0]].id!r} is not finite")
                yield batch, values
                bar.advance(len(batch))
        if given is not None and next(given, None) is not None:
            raise InputError("add: more latents than documents; give one for each")

    def _given(self, documents: list[Document], latents: list[np.ndarray]) -> np.ndarray:
        dim = self.store.model.width + 1
        if len(latents) < len(documents) or any(np.shape(latent) != (dim,) for latent in latents):
            raise InputError(f"add: give each document one latent of {dim} numbers, from {documents[0].id!r} on")
        return np.asarray(latents, np.float32)
