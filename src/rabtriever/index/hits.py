"""What a search returns."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rabtriever.scoring.calibration import Calibration

if TYPE_CHECKING:
    from rabtriever.index.snapshot import Snapshot


class Ranking(NamedTuple):
    """Documents of one query, best first.

    Attributes:
        ordinals: int64 (n,), positions in a snapshot's order of insertion.
        log_odds: float32 (n,).
    """

    ordinals: np.ndarray
    log_odds: np.ndarray


@dataclass(frozen=True)
class Hit:
    """A document that was found.

    Attributes:
        id: The document's id.
        probability: Calibrated probability that the document is relevant to the query.
        log_odds: The ranking key, on the retriever's scale; a reranker's log-odds are converted to it.
        text: The document as the models read it.
        metadata: As it was added.
        reranked: Whether the reranker scored it.
    """

    id: str
    probability: float
    log_odds: float
    text: str
    metadata: dict[str, Any]
    reranked: bool = False


def make_hits(ranking: Ranking, snapshot: Snapshot, calibration: Calibration) -> list[Hit]:
    """Returns a ranking's documents as hits."""
    documents = snapshot.documents(ranking.ordinals)
    probabilities = calibration.probability(ranking.log_odds).tolist()
    return [
        Hit(document.id, probability, score, document.content, deepcopy(dict(document.metadata)))
        for document, probability, score in zip(documents, probabilities, ranking.log_odds.tolist(), strict=True)
    ]
