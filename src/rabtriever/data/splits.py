"""The queries that are trained on and those that are held out: one rule for every command, by the queries' texts."""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from collections.abc import Mapping
from dataclasses import replace

from rabtriever.data.types import Qrels, RetrievalData
from rabtriever.errors import InputError

MAX_LOST_SHARE = 0.5  # of train queries that other splits hold, without a warning
DEV_SHARE = 0.1  # of the texts of labelled train queries
MAX_HELD_OUT_QUERIES = 300  # without labels
MAX_DEV_QUERIES = 500  # that measures and calibrations use; all of the dev split is held out


def train_dev_split(data: RetrievalData) -> RetrievalData:
    """Holds out a ``dev`` split, unless there is one, and takes every held-out text out of ``train``.

    A hash of a query's text decides whether it is held out: about a tenth of the texts, the same ones whatever else is
    in the data set, in whatever order, at whatever limits, and whichever data sets are joined. So teacher and student,
    trained by different commands, have both never seen them. No query that an LLM wrote is held out. A train query
    whose text occurs in any other split, under whatever id, is left out of ``train``; splits named ``train_...`` that
    have no other queries are parts of it. A warning says so where that is most of them. Splitting twice changes
    nothing. There is no ``dev`` without two different labelled train queries.
    """
    if "train" not in data.qrels:
        return data
    parts = _parts_of_train(data)
    others = {name: qrels for name, qrels in data.qrels.items() if name != "train" and name not in parts}
    train = _without(data.qrels["train"], _held_out_texts(data), data)
    if (lost := len(data.qrels["train"]) - len(train)) > MAX_LOST_SHARE * len(data.qrels["train"]):
        shared = f"{lost} of {len(data.qrels['train'])} train queries"
        warnings.warn(f"{data.name}: {shared} are left out: other splits have them, too", stacklevel=2)
    if not others.get("dev"):
        labelled = [query for query in train if data.is_labelled("train", query) and query not in data.generated]
        dev_texts = _dev_texts({_normalize(data.queries[query]) for query in labelled})
        rest = _without(train, dev_texts, data)
        dev: Qrels = {query: grades for query, grades in train.items() if query not in rest}
        train, others = rest, {**others, "dev": dev} if dev else others
    left = {name: {query: grades for query, grades in part.items() if query in train} for name, part in parts.items()}
    return replace(data, qrels={"train": train, **others, **left})


def training_queries(
    data: RetrievalData, max_labelled_queries: int | None = None, seed: int = 0
) -> dict[str, list[str]]:
    """Returns the queries to train on, after :func:`train_dev_split`: labelled train queries and unlabelled ones.

    Args:
        data: Its queries whose text another split holds are left out.
        max_labelled_queries: Most labelled queries, drawn at random by ``seed``; all if None. Unlabelled ones stay.
        seed: Of that draw.

    Returns:
        Query id -> its relevant documents, empty for an unlabelled query; in file order.

    Raises:
        InputError: no query is left.
    """
    labelled = {query for query in data.qrels.get("train", {}) if data.is_labelled("train", query)}
    sampled = data.positives("train", max_labelled_queries, seed) if labelled else {}
    held_out = _held_out_texts(data)
    queries = {
        query: sampled.get(query, [])
        for query, text in data.queries.items()
        if (query in sampled or query not in labelled) and _normalize(text) not in held_out
    }
    if not queries:
        fault = "no query to train on outside the held-out splits"
        raise InputError(f"{data.name}: {fault}; add queries or qrels/train.tsv")
    return queries


def dev_queries(data: RetrievalData, limit: int = MAX_DEV_QUERIES) -> dict[str, list[str]]:
    """Returns query id -> relevant documents of the ``dev`` split, a sample if it is larger; empty without one."""
    if not any(data.is_labelled("dev", query) for query in data.qrels.get("dev", {})):
        return {}
    return data.positives("dev", limit)


def held_out_queries(data: RetrievalData, queries: Mapping[str, object], limit: int = MAX_HELD_OUT_QUERIES) -> set[str]:
    """Returns about a tenth of unlabelled ``queries``, ``limit`` at most, to measure on: by their texts, as ``dev``.

    None of them was written by an LLM.
    """
    written = [query for query in queries if query not in data.generated]
    texts = _dev_texts({_normalize(data.queries[query]) for query in written}, limit)
    return {query for query in written if _normalize(data.queries[query]) in texts}


def _parts_of_train(data: RetrievalData) -> dict[str, Qrels]:
    """Returns the splits ``train_...`` whose queries are all in ``train``."""
    train = data.qrels.get("train", {}).keys()
    return {name: of for name, of in data.qrels.items() if name.startswith("train_") and of.keys() <= train}


def _held_out_texts(data: RetrievalData) -> set[str]:
    held_out = data.qrels.keys() - {"train"} - _parts_of_train(data).keys()
    return {_normalize(data.queries[query]) for split in held_out for query in data.qrels[split]}


def _without(qrels: Qrels, texts: set[str], data: RetrievalData) -> Qrels:
    return {query: grades for query, grades in qrels.items() if _normalize(data.queries[query]) not in texts}


def _dev_texts(texts: set[str], limit: int | None = None) -> set[str]:
    """Returns the texts whose hash lies in the lowest tenth, ``limit`` at most; at least one, but never all."""
    shares = {text: int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64 for text in texts}
    count = sum(share < DEV_SHARE for share in shares.values())
    return set(sorted(texts, key=lambda text: shares[text])[: min(max(1, count), limit or len(texts), len(texts) - 1)])


def _normalize(text: str) -> str:
    """Returns what two texts share that differ in case, spaces or the encoding of their characters."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()
