"""What a search returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rabtriever.index.table_version import Rows


class Ranking(NamedTuple):
    """Documents for one query, best first.

    Attributes:
        ordinals: int64 (n,), their ranks in the order of insertion (:mod:`rabtriever.index.snapshot`).
        log_odds: float32 (n,), the retriever's.
    """

    ordinals: np.ndarray
    log_odds: np.ndarray


class Found(NamedTuple):
    """What a search of a view found for one query, best first.

    Attributes:
        rows: n rows of its version.
        log_odds: float32 (n,), the retriever's.
    """

    rows: Rows
    log_odds: np.ndarray


class Hits(list["Hit"]):
    """The hits of a query, best first.

    Attributes:
        closest: What came closest, if the search may refuse and nothing fits the query: then there is no hit.
    """

    closest: Hit | None = None


@dataclass(frozen=True)
class Hit:
    """A document that was found.

    Attributes:
        id: The document's id.
        probability: Calibrated probability that the document is relevant to the query.
        log_odds: The ranking key, on the retriever's scale; a reranker's log-odds are converted to it.
        text: The document as the models read it.
        metadata: As it was added.
        reranked: Whether the log-odds are the reranker's.
    """

    id: str
    probability: float
    log_odds: float
    text: str
    metadata: dict[str, Any]
    reranked: bool = False
