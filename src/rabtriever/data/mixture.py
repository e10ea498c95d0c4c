"""Several data sets as one, for a model that serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rabtriever.data.splits import train_dev_split
from rabtriever.data.types import Document, Qrels, RetrievalData
from rabtriever.errors import InputError


def concatenate(
    sources: Sequence[RetrievalData], max_queries_per_dataset: int | None = None, seed: int = 0
) -> RetrievalData:
    """Returns the union of data sets, named ``a+b+...``: one corpus, one set of queries, the union of each split.

    Development queries are held out of each data set before anything else (:func:`train_dev_split`).

    Args:
        sources: Data sets of different names; ids become ``<name>/<id>``. A single one keeps its ids.
        max_queries_per_dataset: Most labelled train queries of each, drawn at random by ``seed``; all if None.
            Unlabelled queries stay.
        seed: Of that draw.

    Raises:
        InputError: no data set, two of one name, or ``max_queries_per_dataset`` below 1.
    """
    names = [source.name for source in sources]
    if not sources or len(set(names)) < len(names):
        raise InputError(f"concatenate {', '.join(names) or 'nothing'}: give data sets of different names")
    if max_queries_per_dataset is not None and max_queries_per_dataset < 1:
        message = f"max_queries_per_dataset {max_queries_per_dataset}: must be at least 1"
        raise InputError(message, param="max_queries_per_dataset")
    limited = [_limit(train_dev_split(source), max_queries_per_dataset, seed) for source in sources]
    if len(limited) == 1:
        return limited[0]
    documents: dict[str, Document] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, Qrels] = {}
    generated: set[str] = set()
    for source in limited:
        prefix = f"{source.name}/"
        documents |= {prefix + key: replace(document, id=prefix + key) for key, document in source.documents.items()}
        queries |= {prefix + key: text for key, text in source.queries.items()}
        generated |= {prefix + key for key in source.generated}
        for split, labels in source.qrels.items():
            qrels.setdefault(split, {}).update(
                (prefix + query, {prefix + document: grade for document, grade in grades.items()})
                for query, grades in labels.items()
            )
    # Once more: a query that one data set holds out may be a train query of another.
    return train_dev_split(RetrievalData("+".join(names), documents, queries, qrels, frozenset(generated)))


def _limit(source: RetrievalData, max_queries: int | None, seed: int) -> RetrievalData:
    """Returns the data set with a sample of its labelled train queries."""
    train = source.qrels.get("train", {})
    labelled = {query for query in train if source.is_labelled("train", query)}
    if max_queries is None or len(labelled) <= max_queries:
        return source
    dropped = labelled - source.labelled_queries("train", max_queries, seed).keys()
    queries = {query: text for query, text in source.queries.items() if query not in dropped}
    sampled = {query: grades for query, grades in train.items() if query not in dropped}
    return replace(source, queries=queries, qrels={**source.qrels, "train": sampled})
