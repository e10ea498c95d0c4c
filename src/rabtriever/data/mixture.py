"""Several data sets as one, for a model that serves them all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rabtriever.data.splits import train_dev_split
from rabtriever.data.types import Document, Qrels, RetrievalData
from rabtriever.errors import InputError


def concatenate(
    sources: Sequence[RetrievalData],
    max_queries_per_dataset: int | None = None,
    seed: int = 0,
    max_queries_per_document: int | None = None,
) -> RetrievalData:
    """Returns the union of data sets, named ``a+b+...``: one corpus, one set of queries, the union of each split.

    Development queries are held out of each data set before anything else (:func:`train_dev_split`). Documents of the
    same text become one, the first, with the higher of their grades: no query could ask for one of them and not for
    the other. A single data set stays as it is.

    Args:
        sources: Data sets of different names; ids become ``<name>/<id>``. A single one keeps its ids.
        max_queries_per_dataset: Most labelled train queries of each, drawn at random by ``seed``; all if None.
            Unlabelled queries stay.
        seed: Of that draw.
        max_queries_per_document: Labelled train queries are drawn while one of their documents has fewer than so many,
            so that a few documents of many queries do not outweigh many of few; all if None.

    Raises:
        InputError: no data set, two of one name, or a limit below 1.
    """
    names = [source.name for source in sources]
    if not sources or len(set(names)) < len(names):
        raise InputError(f"concatenate {', '.join(names) or 'nothing'}: give data sets of different names")
    limits = {
        "max_queries_per_dataset": max_queries_per_dataset,
        "max_queries_per_document": max_queries_per_document,
    }
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise InputError(f"{name} {limit}: must be at least 1", param=name)
    limited = [
        _limit(train_dev_split(source), max_queries_per_dataset, max_queries_per_document, seed) for source in sources
    ]
    if len(limited) == 1:
        return limited[0]
    documents: dict[str, Document] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, Qrels] = {}
    generated: set[str] = set()
    first_of: dict[str, str] = {}  # text -> id of the first document that has it
    for source in limited:
        prefix = f"{source.name}/"
        same = {
            key: first_of.setdefault(document.content, prefix + key) if not _is_own(source, key) else prefix + key
            for key, document in source.documents.items()
        }
        for key, document in source.documents.items():
            documents.setdefault(same[key], replace(document, id=same[key]))
        queries |= {prefix + key: text for key, text in source.queries.items()}
        generated |= {prefix + key for key in source.generated}
        for split, labels in source.qrels.items():
            qrels.setdefault(split, {}).update(
                (prefix + query, _merge(grades, same, prefix)) for query, grades in labels.items()
            )
    # Once more: a query that one data set holds out may be a train query of another.
    return train_dev_split(RetrievalData("+".join(names), documents, queries, qrels, frozenset(generated)))


def _is_own(source: RetrievalData, document: str) -> bool:
    """Returns whether a document is a query, too, which must go on to recognise it."""
    return document in source.queries and source.is_own_document(document, document)


def _merge(grades: Mapping[str, int], same: Mapping[str, str], prefix: str) -> dict[str, int]:
    """Returns a query's grades by the documents that theirs became; the highest of several."""
    merged: dict[str, int] = {}
    for document, grade in grades.items():
        became = same.get(document, prefix + document)  # one that the corpus lacks stays so
        merged[became] = max(grade, merged.get(became, grade))
    return merged


def _limit(
    source: RetrievalData, max_queries: int | None, max_queries_per_document: int | None, seed: int
) -> RetrievalData:
    """Returns the data set with a sample of its labelled train queries."""
    train = source.qrels.get("train", {})
    labelled = [query for query in train if source.is_labelled("train", query)]
    random.Random(seed).shuffle(labelled)
    counts: Counter[str] = Counter()
    chosen: set[str] = set()
    for query in labelled:
        positives = [document for document in train[query] if source.is_positive("train", query, document)]
        if len(chosen) == max_queries:
            break
        least = min((counts[d] for d in positives), default=0)
        if max_queries_per_document is None or least < max_queries_per_document:
            counts.update(positives)
            chosen.add(query)
    dropped = set(labelled) - chosen
    if not dropped:
        return source
    queries = {query: text for query, text in source.queries.items() if query not in dropped}
    sampled = {query: grades for query, grades in train.items() if query not in dropped}
    return replace(source, queries=queries, qrels={**source.qrels, "train": sampled})
