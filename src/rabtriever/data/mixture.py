"""Several data sets as one, for a model that serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rabtriever.data.types import Qrels, RetrievalData
from rabtriever.errors import InputError


def mixture(sources: Sequence[RetrievalData], most: int | None = None, seed: int = 0) -> RetrievalData:
    """The union of data sets: one corpus, one set of queries, each split's judgements side by side.

    Args:
        sources: Data sets of different names; ids become ``<name>/<id>``. A single one keeps its ids.
        most: Train queries to take of each, drawn at random; all if None.
        seed: Seed of that draw.

    Returns:
        A data set named ``a+b+...``.

    Raises:
        InputError: no data set, two of one name, ``most`` below 1, or queries that would be lost: some data sets have a
            train split, another has queries without one.
    """
    names = [source.name for source in sources]
    if not sources or len(set(names)) < len(names):
        raise InputError(f"mixture of {', '.join(names) or 'nothing'}: give data sets of different names")
    if any("train" in source.qrels for source in sources):
        for source in sources:
            if source.queries and "train" not in source.qrels:
                raise InputError(f"{source.name} has queries, but no qrels/train.tsv as others have: train on it apart")
    limited = [_limited(source.with_dev() if len(sources) > 1 else source, most, seed) for source in sources]
    if len(limited) == 1:
        return limited[0]
    documents = {
        f"{source.name}/{key}": replace(document, id=f"{source.name}/{key}")
        for source in limited
        for key, document in source.documents.items()
    }
    queries = {f"{source.name}/{key}": text for source in limited for key, text in source.queries.items()}
    qrels: dict[str, Qrels] = {}
    for source in limited:
        for split, judgements in source.qrels.items():
            qrels.setdefault(split, {}).update(_prefixed(source.name, judgements))
    return RetrievalData("+".join(names), documents, queries, qrels)


def _limited(source: RetrievalData, most: int | None, seed: int) -> RetrievalData:
    if most is None or "train" not in source.qrels:
        return source
    kept = source.judged("train", most, seed)
    return replace(source, qrels={**source.qrels, "train": {query: source.qrels["train"][query] for query in kept}})


def _prefixed(name: str, judgements: Qrels) -> Qrels:
    return {
        f"{name}/{query}": {f"{name}/{document}": grade for document, grade in grades.items()}
        for query, grades in judgements.items()
    }
