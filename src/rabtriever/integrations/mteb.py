"""Retrievers and rerankers as models of mteb, and a BEIR folder as a task, for ``mteb.evaluate``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rabtriever.data import Document, RetrievalData
from rabtriever.errors import InputError
from rabtriever.extras import needs
from rabtriever.rerankers.base import Reranker

with needs("mteb"):
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.types import PromptType

if TYPE_CHECKING:
    from rabtriever.retriever import Rabtriever

BLOCK = 4096  # documents that are scored at a time

Batches = Iterable[Mapping[str, Any]]
"""mteb's DataLoader: of a query ``text``; of a document ``text``, or ``title`` and ``body``."""


class MtebEncoder:
    """A retriever as mteb's encoder, with its own similarity: ``mteb.evaluate(MtebEncoder(retriever), tasks)``.

    Documents are read as everywhere in this package, ``title: text``, not as mteb joins them.

    Args:
        retriever: Any; its score need not be an inner product.
        name: For mteb's results, ``owner/name``; by default from the folder that the retriever was loaded from.
    """

    def __init__(self, retriever: Rabtriever, name: str | None = None) -> None:
        self.retriever = retriever
        self.mteb_model_meta = _meta(name or retriever.name_or_path, _revision(retriever), "dense", retriever.dim)

    def encode(self, inputs: Batches, *, prompt_type: PromptType | None = None, **_: Any) -> np.ndarray:  # noqa: ANN401
        """Returns latents float32 (n, dim).

        Raises:
            InputError: a task other than retrieval: its texts are neither queries nor documents.
        """
        if prompt_type is None:
            raise InputError("mteb: a retriever encodes queries and documents; give it tasks of retrieval or reranking")
        if prompt_type == PromptType.query:
            return self.retriever.encode_query(_texts(inputs))
        return self.retriever.encode_document(_texts(inputs))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:  # noqa: ANN401
        """Returns the log-odds float32 (n, k) of queries (n, dim) and documents (k, dim).

        Equal documents keep their order, as in an index: each copy gets the next smaller number, since mteb would order
        them by id, and data sets label copies differently.
        """
        queries, documents = np.atleast_2d(np.asarray(embeddings1)), np.atleast_2d(np.asarray(embeddings2))
        blocks = [documents[start : start + BLOCK] for start in range(0, len(documents), BLOCK)]
        scores = np.concatenate([self.retriever.similarity(queries, block) for block in blocks], axis=1)
        last: dict[bytes, int] = {}
        for column, document in enumerate(documents):
            before = last.get(key := document.tobytes())
            if before is not None:
                scores[:, column] = np.nextafter(scores[:, before], np.float32(-np.inf))
            last[key] = column
        return scores

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:  # noqa: ANN401
        """Returns the log-odds float32 (n,) of queries (n, dim), each with its own document (n, dim)."""
        pairs = zip(np.asarray(embeddings1), np.asarray(embeddings2), strict=True)
        return np.array([self.retriever.similarity(query, document)[0, 0] for query, document in pairs], np.float32)


class MtebCrossEncoder:
    """A reranker as mteb's cross-encoder, which orders the documents that an earlier run found.

    Args:
        reranker: Such as of ``load_reranker``.
        name: As of :class:`MtebEncoder`.
    """

    def __init__(self, reranker: Reranker, name: str | None = None) -> None:
        self.reranker = reranker
        described = str(reranker.describe()["name"])
        self.mteb_model_meta = _meta(name or described, reranker.fingerprint, "cross-encoder", None)

    def predict(self, inputs1: Batches, inputs2: Batches, **_: Any) -> np.ndarray:  # noqa: ANN401
        """Returns the log-odds float32 (n,) of queries, each with its document."""
        queries, documents = _texts(inputs1), _texts(inputs2)
        distinct = list(dict.fromkeys(queries)), list(dict.fromkeys(documents))
        places = [{text: row for row, text in enumerate(texts)} for texts in distinct]
        pairs = [[places[0][query], places[1][document]] for query, document in zip(queries, documents, strict=True)]
        return self.reranker.score(*distinct, np.array(pairs, np.int64).reshape(-1, 2)).log_odds


def retrieval_task(data: RetrievalData, split: str = "test") -> AbsTaskRetrieval:
    """Returns a data set of this machine as a task, on which mteb can measure any model; nothing is downloaded.

    Args:
        data: Such as ``load_data("folder")``. A query's own document does not count, as in ``rabtriever evaluate``.
        split: Which labels.

    Raises:
        InputError: no such split, or no relevant document in it.
    """
    queries = data.labelled_queries(split)
    own = {query for query in queries if data.is_own_document(query, query)}
    labels = {
        query: {document: grade for document, grade in data.qrels[split][query].items() if query != document or not own}
        for query in queries
    }
    tables = {
        "corpus": [{"id": d.id, "title": d.title, "text": d.text} for d in data.documents.values()],
        "queries": [{"id": query, "text": text} for query, text in queries.items()],
    }
    metadata = TaskMetadata(
        name=data.name,
        description=f"{split} of {data.name}",
        dataset={"path": data.name, "revision": hashlib.sha256(json.dumps([tables, labels]).encode()).hexdigest()},
        type="Retrieval",
        category="t2t",
        eval_splits=[split],
        eval_langs=["und-Zyyy"],
        main_score="ndcg_at_10",
    )
    members = {"metadata": metadata, "ignore_identical_ids": bool(own)}
    task: AbsTaskRetrieval = type("LocalRetrieval", (AbsTaskRetrieval,), members)()
    corpus, asked = (Dataset.from_list(tables[name]) for name in ("corpus", "queries"))
    task.dataset = {
        "default": {split: {"corpus": corpus, "queries": asked, "relevant_docs": labels, "top_ranked": None}}
    }
    task.data_loaded = True
    return task


def _texts(batches: Batches) -> list[str]:
    return [text for batch in batches for text in _of_batch(batch)]


def _of_batch(batch: Mapping[str, Any]) -> list[str]:
    if "body" not in batch:
        return list(batch["text"])
    titles = batch.get("title") or [""] * len(batch["body"])
    pairs = zip(titles, batch["body"], strict=True)
    return [Document("", body or "", title or "").content for title, body in pairs]


def _revision(retriever: Rabtriever) -> str:
    """Returns what changes a retriever's results: its fingerprint, and what moves queries alone."""
    moves = dict(retriever.examples.to_arrays()) if retriever.examples else {}
    if retriever.query_adapter is not None:
        moves["query_adapter"] = retriever.query_adapter
    digest = hashlib.sha256(f"{retriever.fingerprint} {retriever.correction}".encode())
    for name, array in sorted(moves.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _meta(name: str | None, revision: str, kind: str, dim: int | None) -> ModelMeta:
    """Returns what mteb's results name; the revision keeps its cache from mixing models up."""
    name = name or "retriever"
    owned = name if name.count("/") == 1 and not Path(name).is_absolute() else f"rabtriever/{Path(name).name}"
    values = {"name": owned, "revision": revision[:16], "model_type": [kind], "embed_dim": dim}
    return ModelMeta.create_empty(values)
