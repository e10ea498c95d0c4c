"""The index: documents and their latents in a Lance table, searched with the retriever that made them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any, overload

import numpy as np
from typing_extensions import Unpack

from rabtriever.data import Document
from rabtriever.deprecation import renamed
from rabtriever.errors import InputError, NotFoundError
from rabtriever.index.context import Lists, add_context
from rabtriever.index.current_view import CurrentView
from rabtriever.index.encoding import Retriever, encode_batches, encode_queries
from rabtriever.index.hits import Found, Hit, Hits
from rabtriever.index.learned import LearnedVersions
from rabtriever.index.schema import ModelInfo
from rabtriever.index.search import (
    SearchKeywords,
    SearchOptions,
    cut_hits,
    find,
    find_closest,
    make_hits,
    query_vectors,
    rerank_hits,
)
from rabtriever.index.snapshot import Snapshot
from rabtriever.index.syncing import Changes, Plan
from rabtriever.index.table import Table
from rabtriever.index.table_version import TableVersion, id_filter
from rabtriever.index.view import EXACT_UP_TO
from rabtriever.persistence.folder import atomic_folder, normalized_uri
from rabtriever.persistence.object_store import is_remote

VERSION_RETENTION = timedelta(days=7)


class Index:
    """Stored documents. Make one with :meth:`create`, :meth:`build` or :meth:`open`.

    Attributes:
        table: The Lance table.
        version: The past version that was opened; None: always the latest.
        learned: What the retriever learnt in use (:func:`rabtriever.tune`).
        write_timeout: Seconds that a change waits for another writer; 0 at first.
    """

    def __init__(self, table: Table, retriever: Retriever | None, current: CurrentView) -> None:
        if retriever is not None:
            table.model.check(retriever.fingerprint, table.uri)
        self.table, self.version, self.write_timeout = table, current.version, 0.0
        self.learned = LearnedVersions(table.uri)
        self._current, self._saved, self._lock = current, retriever, Lock()
        self._retriever: Retriever | None = None  # with what it learnt

    @classmethod
    def create(cls, uri: str | Path | None, retriever: Retriever) -> Index:
        """Makes an empty index for a retriever's latents.

        Args:
            uri: Folder or object-store URI; None: a temporary folder that is removed with the object.
            retriever: Encodes the documents and queries.

        Raises:
            ConflictError: something exists at ``uri``.
        """
        folder = tempfile.mkdtemp(prefix="rabtriever-") if uri is None else str(uri)
        table = Table.create(folder, ModelInfo.of(retriever))
        index = cls(table, retriever, CurrentView(table))
        if uri is None:
            weakref.finalize(index, shutil.rmtree, folder, ignore_errors=True)
        return index

    @classmethod
    def build(
        cls,
        uri: str | Path | None,
        retriever: Retriever,
        documents: Iterable[Document],
        show_progress_bar: bool = False,
    ) -> Index:
        """Makes an index of these documents, completely or not at all; ``uri`` as in :meth:`create`.

        Raises:
            ConflictError, InputError: something exists at ``uri``; no documents, or a bad one (see :meth:`add`).
        """
        uri = None if uri is None else normalized_uri(uri)
        if uri is None or is_remote(uri):
            index = cls.create(uri, retriever)
            try:
                index._fill(documents, show_progress_bar)
            except BaseException:
                index.table.drop()
                raise
        else:
            with atomic_folder(uri) as folder:
                cls.create(folder, retriever)._fill(documents, show_progress_bar)
            index = cls.open(uri, retriever)
        index.warm()
        return index

    @classmethod
    def open(
        cls,
        uri: str | Path,
        retriever: Retriever | None = None,
        *,
        precision: str = "int8",
        version: int | None = None,
        device: str | None = None,
        exact_up_to: int = EXACT_UP_TO,
    ) -> Index:
        """Opens an index. It loads no model: that is done when a search or a change first needs it.

        Args:
            uri: Folder or object-store URI.
            retriever: The one that made it; if None, it is loaded from the folder it was in then.
            precision: Number format of the scan: ``int8``, ``float16`` or ``float32``; hits and log-odds are the same.
            version: One of :meth:`versions`, to read; None: the latest, and later ones as they are written, in an
                object store seconds later.
            device: Device on which torch holds and scans the latents, such as ``cuda``; None: the CPU's kernel scans.
            exact_up_to: Documents up to which ``mode="auto"`` searches exactly.

        Raises:
            NotFoundError: no index there, or no such version.
            CorruptIndexError: a damaged one.
            BusyError: one that a cluster has not filled yet.
            InputError: ``retriever`` is another model, or ``precision`` unknown.
        """
        table = Table.open(str(uri))
        table.require_finished()
        return cls(table, retriever, CurrentView(table, precision, version, device, exact_up_to))

    @property
    def retriever(self) -> Retriever:
        """The retriever that made the index, with what it learnt in use since.

        It is a :class:`rabtriever.Rabtriever` if it was loaded here. What another process learns counts from the next
        opening of the index.

        Raises:
            NotFoundError: its folder is gone.
            InputError: its folder holds another model now.
        """
        with self._lock:
            if self._saved is None:
                from rabtriever.retriever import Rabtriever  # torch and transformers are needed only here

                loaded = Rabtriever.from_pretrained(self.table.model_source())
                self.table.model.check(loaded.fingerprint, self.table.uri)
                self._saved = loaded
            if self._retriever is None:
                number = self.learned.current
                self._retriever = self._saved.with_learned(self.learned.load(number)) if number else self._saved
            return self._retriever

    def use_learned(self) -> None:
        """Reads anew what the retriever learnt: a version that was made or left since the index was opened."""
        with self._lock:
            self._retriever = None

    def __len__(self) -> int:
        """Returns the number of documents."""
        return len(self.table) if self.version is None else len(self._current.get().snapshot)

    def add(
        self,
        documents: Iterable[Document],
        latents: Iterable[np.ndarray] | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        """Adds documents in one transaction: all of them or, on an error, none.

        Args:
            documents: Read as a stream; memory stays constant but for their ids.
            latents: float32 (dim,) each, from :meth:`Rabtriever.encode_document`; encoded here if None.
            show_progress_bar: Whether to show progress on stderr.

        Raises:
            ConflictError: an id that exists already or comes twice.
            InputError: a document without text, metadata that are not JSON, or latents of another model or not finite.
            BusyError: another writer.
            StorageError: no space.
        """
        with self._writing():
            batches = encode_batches(documents, latents, self.retriever, self.table.existing_ids, show_progress_bar)
            self.table.add(batches, replace=False)

    def upsert(
        self,
        documents: Iterable[Document],
        latents: Iterable[np.ndarray] | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        """Adds documents as :meth:`add` does; those whose ids exist are removed, so ties count the new ones as last."""
        with self._writing():
            batches = encode_batches(documents, latents, self.retriever, lambda ids: set(), show_progress_bar)
            self.table.add(batches, replace=True)

    def sync(self, documents: Iterable[Document], delete: bool = False, show_progress_bar: bool = False) -> Changes:
        """Brings the index up to date with a catalogue, in one transaction; only what is new or changed is encoded.

        Args:
            documents: All of them; their ids differ.
            delete: Whether documents of the index that are not among them are removed. If not, they stay, and
                :attr:`Changes.missing` counts them.
            show_progress_bar: Whether to show progress on stderr.

        Raises:
            ConflictError, InputError, BusyError, StorageError: as of :meth:`add`.
        """
        with self._writing():
            plan = Plan.of(documents, self.table.snapshot())
            missing = plan.missing if delete else []
            if to_write := plan.added + plan.changed:
                batches = encode_batches(to_write, None, self.retriever, lambda ids: set(), show_progress_bar)
                self.table.add(batches, replace=True, remove=missing)
            elif missing:
                self.table.delete(missing)
        return plan.changes(delete)

    def delete(self, ids: Sequence[str]) -> None:
        """Removes documents.

        Raises:
            NotFoundError: an id that does not exist; nothing is removed then.
            BusyError: another writer.
        """
        if isinstance(ids, str):
            raise InputError(f"delete: expected a list of ids, got {ids!r}; wrap it in a list")
        with self._writing():
            missing = sorted(set(ids) - self.table.existing_ids(ids))
            if missing:
                raise NotFoundError(f"delete: no document {missing[0]!r} in the index; leave it out", param="id")
            if ids:
                self.table.delete(ids)

    def optimize(self, retention: timedelta = VERSION_RETENTION) -> None:
        """Merges small files, updates the text index and removes versions older than ``retention``.

        Raises:
            BusyError: another writer.
        """
        with self._writing():
            self.table.optimize(retention)
        self.warm()

    def versions(self) -> list[dict[str, Any]]:
        """Returns every version that can be opened, oldest first: ``version``, ``time`` (ISO 8601), ``documents``."""
        return self.table.versions()

    def restore(self, version: int) -> None:
        """Makes a past version the latest again, as a new one, so that nothing is lost.

        Raises:
            NotFoundError: no such version.
            BusyError: another writer.
        """
        with self._writing():
            self.table.restore(version)

    def warm(self) -> None:
        """Prepares segments and compiles the kernel, so that no search has to wait for it.

        :meth:`build` and :meth:`optimize` do it; a server that opens an index should.
        """
        self._current.get().warm()

    def info(self) -> dict[str, Any]:
        """Returns what the index holds: documents, model, version, segments and bytes on disk, bytes in memory now.

        ``learned`` is the number of the version in use of what its retriever learnt; 0: none.
        """
        return {**self.table.info(), **self._current.info(), "learned": self.learned.current}

    @overload
    def search(  # type: ignore[overload-overlap]  # a string is also an iterable of strings
        self, queries: str, k: int = ..., **options: Unpack[SearchKeywords]
    ) -> Hits: ...
    @overload
    def search(self, queries: Iterable[str], k: int = ..., **options: Unpack[SearchKeywords]) -> list[Hits]: ...
    def search(self, queries: str | Iterable[str], k: int = 10, **options: Unpack[SearchKeywords]) -> Hits | list[Hits]:
        """Finds the best documents for a query, or for each of several.

        Args:
            queries: A query, or several.
            k: Hits a query, at most.
            **options: ``where``, ``mode``, ``rerank``, ``threshold`` and ``refuse`` (:class:`SearchOptions`), and
                ``reranker``, which scores the best hits if ``rerank`` is given; the retriever's own if None;
                ``show_progress_bar``, whether its progress is shown on stderr. And what
                came before, which retriever, BM25 and reranker read as part of the query (:meth:`with_context`):
                ``history``, earlier turns of the conversation, and ``used``, ids of documents that were chosen already
                (steps done, tools called), both oldest first; for several queries, a list of lists. Used documents
                can be hits again, as a step may be repeated; ``where`` leaves them out.

        Returns:
            A query's hits, best first, ties in the order of insertion; a list of that for several queries. Where
            nothing fits there is no hit, and ``closest`` says what came closest (:class:`rabtriever.index.hits.Hits`).

        Raises:
            InputError: an option that is wrong, a promise that cannot be given, a condition that cannot be read, a
                query of zero tokens, a text of which a model makes NaN, or as of :meth:`with_context`.
        """
        texts = [queries] if isinstance(queries, str) else list(queries)
        reranker, show_progress_bar = options.pop("reranker", None), options.pop("show_progress_bar", False)
        context = [options.pop("history", None), options.pop("used", None)]
        if isinstance(queries, str):
            context = [None if values is None else [values] for values in context]  # type: ignore[list-item]
        asked = SearchOptions(k, **options)  # type: ignore[misc]
        texts = self.with_context(texts, *context)
        hits = self.retrieve(texts, encode_queries(self.retriever, texts), asked)
        closest = find_closest(hits, asked, self.retriever)
        if asked.rerank is not None:
            reranker = reranker or self.retriever.reranker
            hits = rerank_hits(texts, hits, asked, reranker, self.retriever, show_progress_bar)
        found = cut_hits(hits, asked, closest)
        return found[0] if isinstance(queries, str) else found

    def with_context(
        self, queries: Sequence[str], history: Lists | None = None, used: Lists | None = None
    ) -> list[str]:
        """Returns queries as a search with context reads them (:func:`rabtriever.data.with_context`).

        A model that was not trained on such queries may find less with them (docs/context.md).

        Args:
            queries: n queries.
            history: Earlier turns of each, oldest first: n lists of texts; None: of none.
            used: Ids of the documents that were chosen already, oldest first: n lists; None: for none. Models read
                their titles, or the beginning of the text of one without.

        Raises:
            InputError: not n lists of texts, a blank text, or an id that the index lacks.
        """
        return add_context(queries, history, used, self.get)

    def retrieve(self, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions) -> list[list[Hit]]:
        """Finds hits for queries that are encoded already, without a reranker.

        Args:
            texts: n queries, for BM25 and messages.
            vectors: Their latents, float32 (n, dim) from :meth:`Rabtriever.encode_query`.
            options: How to search.

        Returns:
            ``options.depth`` hits a query, at most; order and errors as of :meth:`search`.

        Raises:
            NotFoundError: another process removed the version that is being read.
        """
        retriever = self.retriever
        vectors = query_vectors(texts, vectors, options, self.table.model.layout, retriever)
        version, found = self._find_rows(texts, vectors, options)
        with self.table.reading(version.version):
            return [make_hits(one, version, retriever.calibration) for one in found]

    wait = renamed("write_timeout")
    find = renamed("retrieve", lambda self: self._find)

    def _find(self, texts: Sequence[str], vectors: np.ndarray, *options: Any) -> list[Hits]:  # noqa: ANN401
        asked = SearchOptions(*options)
        return cut_hits(self.retrieve(texts, vectors, asked), asked)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the documents of these ids that exist, in the order of insertion."""
        version = self._latest()
        with self.table.reading(version.version):
            return version.documents(version.find(id_filter(ids))) if ids else []

    def ids(self) -> list[str]:
        """Returns the ids of all documents, in the order of insertion."""
        version = self._latest()
        with self.table.reading(version.version):
            return version.ids()

    def candidates(
        self, queries: Sequence[np.ndarray], ids: Sequence[str], depth: int = 20
    ) -> tuple[np.ndarray, list[str]]:
        """Returns latents float32 (m, dim) and ids of some documents and of the best of each query.

        Args:
            queries: Latents float32 (n, dim), of each way to encode the queries.
            ids: Documents that are among them whatever their scores, if they exist.
            depth: Best documents of a query.
        """
        view = self._current.get()
        with self.table.reading(view.snapshot.version):
            depth = min(depth, max(1, len(view.snapshot)))
            best = [one.ordinals for latents in queries for one in view.search(latents, depth, "exact", None)]
            ordinals = np.unique(np.concatenate([view.snapshot.filter(id_filter(ids)), *best])).astype(np.int64)
            return _latents(view.snapshot, ordinals)

    def latents(self, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Returns the latents float32 (m, dim) and ids of those documents that exist, in the order of insertion."""
        snapshot = self._current.get().snapshot
        with self.table.reading(snapshot.version):
            return _latents(snapshot, snapshot.filter(id_filter(ids)))

    def _latest(self) -> TableVersion:
        """Returns the version that searches read."""
        return self._current.get().snapshot

    def _find_rows(
        self, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions
    ) -> tuple[TableVersion, list[Found]]:
        """Finds rows for each query, and the version that has them; arguments as of :func:`find`."""
        view = self._current.get()
        with self.table.reading(view.snapshot.version):
            return view.snapshot, find(view, texts, vectors, options)

    def _writing(self) -> AbstractContextManager[Any]:
        if self.version is not None:
            raise InputError(f"version {self.version} was opened to read; open the index without it to change it")
        return self.table.writing(self.write_timeout)

    def _fill(self, documents: Iterable[Document], show_progress_bar: bool) -> None:
        self.add(documents, show_progress_bar=show_progress_bar)
        if not len(self):
            raise InputError("no documents; an index needs at least one")
        self.table.optimize(VERSION_RETENTION)


def _latents(snapshot: Snapshot, ordinals: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Returns the latents float32 (m, dim) and ids of documents, by their ordinals int64 (m,) ascending."""
    result = np.empty((len(ordinals), snapshot.layout.dim), np.float32)
    for of_batch, latents in snapshot.latents(ordinals):
        result[np.searchsorted(ordinals, of_batch)] = latents
    return result, [document.id for document in snapshot.documents(snapshot.rows(ordinals))]
