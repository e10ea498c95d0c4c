"""Which queries are trained on and which are held out: one rule for every command, by the queries' texts."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from rabtriever.data.types import Qrels, RetrievalData
from rabtriever.errors import InputError

MAX_DEV_QUERIES = 500


def train_dev_split(data: RetrievalData, limit: int = MAX_DEV_QUERIES, seed: int = 0) -> RetrievalData:
    """Holds out a ``dev`` split, unless there is one, and takes every held-out text out of ``train``.

    A tenth of the train queries is held out, chosen by a hash of their texts: the same queries whatever their order,
    their number per command, or the other data sets of a union. So teacher and student, trained by different commands,
    have seen none of them. A train query whose text occurs in another split, under whatever id, is left out of
    ``train``.

    Args:
        data: Queries and judgements.
        limit: Most queries that are held out, duplicates of one text counted once.
        seed: Of the hash. Commands never change it.

    Returns:
        The data with ``dev``, if there are at least two different train queries, and without leaks in ``train``.
    """
    if "train" not in data.qrels:
        return data
    train, others = data.qrels["train"], {name: qrels for name, qrels in data.qrels.items() if name != "train"}
    if "dev" not in others:
        texts = {_normalized(text) for text in data.labelled_queries("train").values()}
        n_dev = min(limit, max(1, len(texts) // 10)) if len(texts) > 1 else 0
        chosen = set(sorted(texts, key=lambda text: _hash(text, seed))[:n_dev])
        dev: Qrels = {query: grades for query, grades in train.items() if _normalized(data.queries[query]) in chosen}
        others |= {"dev": dev} if dev else {}
    held_out = {_normalized(data.queries[query]) for qrels in others.values() for query in qrels}
    kept = {query: grades for query, grades in train.items() if _normalized(data.queries[query]) not in held_out}
    return replace(data, qrels={"train": kept, **others})


def training_queries(
    data: RetrievalData, max_labelled_queries: int | None = None, seed: int = 0
) -> dict[str, list[str]]:
    """Returns the queries to train on, after :func:`train_dev_split`: labelled ones and those that no split judges.

    Args:
        data: Queries and judgements.
        max_labelled_queries: Most labelled queries, drawn at random; all if None. Unlabelled ones always stay.
        seed: Of that draw.

    Returns:
        Query id -> its relevant documents, empty for an unlabelled query; in file order.

    Raises:
        InputError: no query is left.
    """
    train = data.qrels.get("train", {})
    judged = {query for qrels in data.qrels.values() for query in qrels}
    held_out = {_normalized(data.queries[query]) for query in judged - train.keys()}
    labelled = {}
    if any(data.is_positive("train", query, document) for query, grades in train.items() for document in grades):
        labelled = data.positives("train", max_labelled_queries, seed)
    queries = {
        query: labelled.get(query, [])
        for query, text in data.queries.items()
        if query in labelled or (query not in judged and _normalized(text) not in held_out)
    }
    if not queries:
        raise InputError(
            f"{data.name}: no query to train on outside the held-out splits; add queries or qrels/train.tsv"
        )
    return queries


def dev_queries(data: RetrievalData, limit: int = MAX_DEV_QUERIES) -> dict[str, list[str]]:
    """Returns query id -> relevant documents of the ``dev`` split, a sample if it is larger; empty without one."""
    qrels = data.qrels.get("dev", {})
    if not any(data.is_positive("dev", query, document) for query, grades in qrels.items() for document in grades):
        return {}
    return data.positives("dev", limit)


def _normalized(text: str) -> str:
    return " ".join(text.split()).casefold()


def _hash(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{text}".encode()).digest()
