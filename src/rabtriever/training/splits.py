"""Which queries a student is trained on, and which it is watched on."""

from __future__ import annotations

from rabtriever.data import RetrievalData
from rabtriever.errors import InputError
from rabtriever.training.config import DistillConfig


def split_queries(data: RetrievalData, settings: DistillConfig) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Training and development queries; what is held out is never trained on.

    Without a ``train`` split, the queries that no split judges are trained on, by the teacher alone.

    Args:
        data: Queries and judgements.
        settings: ``queries`` to use at most, and the seed of that draw.

    Returns:
        Train and dev: query id -> its judged documents, empty without labels.

    Raises:
        InputError: nothing is left to train on.
    """
    if "train" not in data.qrels:
        if data.qrels:
            judged = {query for qrels in data.qrels.values() for query in qrels}
            unjudged = [query for query in data.queries if query not in judged]
        else:
            unjudged = list(data.queries)
        if not unjudged:
            raise InputError(
                f"{data.name}: no train split and no query outside the others; add queries or qrels/train.tsv"
            )
        return dict.fromkeys(unjudged[: settings.queries or None], []), {}
    train = data.positives("train", settings.queries or None, settings.seed)
    dev = data.positives("dev", 500) if "dev" in data.qrels else {}
    train = {query: right for query, right in train.items() if query not in dev}
    if not train:
        raise InputError(f"{data.name}: too few labelled queries to train on; give at least two")
    return train, dev
