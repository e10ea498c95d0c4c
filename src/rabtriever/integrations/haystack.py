"""Haystack: an index as a retriever, a ranking as a ranker. A saved pipeline names what they load when they warm up."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rabtriever.errors import InputError
from rabtriever.extras import needs
from rabtriever.index import Index
from rabtriever.index.search import SearchOptions
from rabtriever.rerankers.loading import load_reranker
from rabtriever.retriever import Rabtriever

with needs("haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict

KINDS = ("reranker", "retriever")


@component
class RabtrieverRetriever:
    """An index as a retriever. A document's score is the probability; its meta have ``log_odds``, the ranking key.

    Args:
        index: Its folder or URI; or an open one, whose folder a saved pipeline names.
        top_k: Documents, at most.
        where: See :class:`rabtriever.SearchOptions`, as ``mode``, ``rerank``, ``threshold`` and ``refuse``.
        mode: See there.
        rerank: See there.
        threshold: See there.
        refuse: See there.

    Raises:
        InputError: an option that is wrong.
    """

    def __init__(
        self,
        index: str | Path | Index,
        top_k: int = 10,
        where: str | None = None,
        mode: str = "auto",
        rerank: int | None = None,
        threshold: float | None = None,
        refuse: float | None = None,
    ) -> None:
        self.index = index.table.uri if isinstance(index, Index) else str(index)
        self.options = SearchOptions(top_k, where, mode, rerank, threshold, refuse)
        self._opened = index if isinstance(index, Index) else None

    def warm_up(self) -> None:
        """Opens the index and loads its retriever; raises NotFoundError if there is none."""
        if self._opened is None:
            opened = Index.open(self.index)
            opened.warm()
            self._opened = opened
        self._opened.retriever  # noqa: B018 - loaded at the first access

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None, where: str | None = None) -> dict[str, list[Document]]:
        """Finds documents, best first.

        Args:
            query: What is searched for.
            top_k: Instead of the component's.
            where: Instead of the component's.

        Raises:
            InputError: as of :meth:`rabtriever.Index.search`.
        """
        self.warm_up()
        assert self._opened is not None
        given = {"k": top_k, "where": where}
        options = asdict(self.options) | {name: value for name, value in given.items() if value is not None}
        hits = self._opened.search(query, **options)
        return {
            "documents": [
                Document(hit.id, hit.text, meta={**hit.metadata, "log_odds": hit.log_odds}, score=hit.probability)
                for hit in hits
            ]
        }

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, top_k: int | None = None, where: str | None = None
    ) -> dict[str, list[Document]]:
        """The same, in a thread."""
        return await asyncio.to_thread(self.run, query, top_k, where)

    def to_dict(self) -> dict[str, Any]:
        """Returns what a saved pipeline holds."""
        options = asdict(self.options)
        return default_to_dict(self, index=self.index, top_k=options.pop("k"), **options)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RabtrieverRetriever:
        """Makes the component of a saved pipeline; nothing is loaded yet."""
        return default_from_dict(cls, data)


@component
class RabtrieverRanker:
    """Orders documents by a reranker, or by a retriever alone, which reads no pairs and is fast.

    A document's score is the probability.

    Args:
        model: As in :func:`rabtriever.load_reranker`, or in :meth:`rabtriever.Rabtriever.from_pretrained`.
        kind: Which of the two: ``reranker`` or ``retriever``; ``tools`` is both.
        top_k: Documents that are kept, at most; None: all.
        loading: Keywords of these functions, such as ``preset`` and ``backend``. A saved pipeline holds them: no token.

    Raises:
        InputError: another ``kind``.
    """

    def __init__(
        self,
        model: str = "tools",
        kind: str = "reranker",
        top_k: int | None = None,
        loading: dict[str, Any] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"kind {kind!r}: choose one of {', '.join(KINDS)}", param="kind")
        self.model, self.kind, self.top_k, self.loading = str(model), kind, top_k, loading or {}
        self._ranker: Any = None

    def warm_up(self) -> None:
        """Loads the model; raises InputError if there is none."""
        if self._ranker is None:
            load = load_reranker if self.kind == "reranker" else Rabtriever.from_pretrained
            self._ranker = load(self.model, **self.loading)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Orders documents, best first.

        Args:
            query: What they are ranked for.
            documents: Documents with a text.
            top_k: Instead of the component's.

        Raises:
            InputError: ``top_k`` below 1, or a blank text.
        """
        self.warm_up()
        texts = [document.content or "" for document in documents]
        ranked = self._ranker.rank(query, texts, self.top_k if top_k is None else top_k) if documents else []
        return {"documents": [replace(documents[row["corpus_id"]], score=row["score"]) for row in ranked]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The same, in a thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)

    def to_dict(self) -> dict[str, Any]:
        """Returns what a saved pipeline holds."""
        return default_to_dict(self, model=self.model, kind=self.kind, top_k=self.top_k, loading=self.loading)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RabtrieverRanker:
        """Makes the component of a saved pipeline; nothing is loaded yet."""
        return default_from_dict(cls, data)
