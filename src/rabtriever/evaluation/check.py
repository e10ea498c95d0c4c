"""What a retriever finds in a catalogue for requests whose answer is known, and which documents it confuses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.evaluation.labelled_requests import LabelledRequest
from rabtriever.evaluation.measures import interval
from rabtriever.evaluation.telling_words import TellingWords
from rabtriever.index import Index
from rabtriever.index.hits import Hits

if TYPE_CHECKING:
    from rabtriever.retriever import Rabtriever

DEPTH = 10  # hits among which the right one's rank is told
CUTOFFS = (1, 5)
ALIKE = 0.9  # cosine similarity from which on two documents are near-duplicates
MAX_ALIKE = 100  # pairs that a report names
REFUSE = 0.05  # share of the answerable requests that a refusal may cost
ROWS = 1024


def check_catalogue(
    documents: Sequence[Document],
    requests: Sequence[LabelledRequest],
    retriever: Rabtriever,
    show_progress_bar: bool = False,
) -> dict[str, Any]:
    """Searches a catalogue for each request and reports what was found, as JSON values.

    Args:
        documents: The catalogue.
        requests: At least one that something fits.
        retriever: Searches.
        show_progress_bar: Whether to show progress on stderr.

    Returns:
        ``documents``, ``requests`` and ``answerable``: how many; ``R@1`` and ``R@5`` over those that something fits,
        the mean share of a request's right documents among the first 1 and 5, with ``R@1_interval`` and
        ``R@5_interval``, 95% of resampled requests. ``missed``: those whose first hit is wrong. ``confused``: pairs of
        a right document and the one that came first instead, the most frequent first; ``asked`` are words of the right
        one's requests that neither text has. ``alike``: the first :data:`MAX_ALIKE` of ``n_alike`` pairs of
        near-duplicates of which one has no request, so that no request tells them apart. ``nothing_fits``: what became
        of requests without an answer; ``refused`` is None where the retriever cannot refuse.
    """
    by_id = {document.id: document for document in documents}
    texts = list(dict.fromkeys(document.content for document in documents))  # equal texts get equal embeddings
    embeddings = retriever.encoder.encode_documents(texts, show_progress_bar=show_progress_bar)
    latents, rows = retriever.document_latents(embeddings, texts), {text: row for row, text in enumerate(texts)}
    order = [rows[document.content] for document in documents]
    index = Index.create(None, retriever)
    index.add(documents, latents[order])
    answerable = [request for request in requests if request.relevant]
    found = index.search([request.text for request in answerable], k=DEPTH)
    recall = {
        f"R@{k}": [
            len({hit.id for hit in hits[:k]} & set(request.relevant)) / len(request.relevant)
            for request, hits in zip(answerable, found, strict=True)
        ]
        for k in CUTOFFS
    }
    missed = [
        _miss(request, hits)
        for request, hits in zip(answerable, found, strict=True)
        if hits[0].id not in request.relevant
    ]
    words = TellingWords([document.content for document in documents], [request.text for request in requests])
    alike = _alike(documents, {one for request in answerable for one in request.relevant}, embeddings[order])
    return {
        "documents": len(documents),
        "requests": len(requests),
        "answerable": len(answerable),
        **{name: float(np.mean(values)) for name, values in recall.items()},
        **{f"{name}_interval": list(interval(values)) for name, values in recall.items()},
        "missed": sorted(missed, key=lambda miss: -(miss["rank"] or DEPTH + 1)),
        "confused": _confused(missed, answerable, by_id, words),
        "n_alike": len(alike),
        "alike": [_describe_pair(by_id[a], by_id[b], similarity, words) for similarity, a, b in alike[:MAX_ALIKE]],
        "nothing_fits": _nothing_fits(index, [request.text for request in requests if not request.relevant]),
    }


def _miss(request: LabelledRequest, hits: Hits) -> dict[str, Any]:
    ranks = {hit.id: rank for rank, hit in enumerate(hits, start=1)}
    best = min(request.relevant, key=lambda one: ranks.get(one, DEPTH + 1))
    return {
        "text": request.text,
        "relevant": list(request.relevant),
        "best": best,
        "rank": ranks.get(best),
        "first": hits[0].id,
        "probability": hits[0].probability,
    }


def _confused(
    missed: Sequence[Mapping[str, Any]],
    requests: Sequence[LabelledRequest],
    documents: Mapping[str, Document],
    words: TellingWords,
) -> list[dict[str, Any]]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for miss in missed:
        counts[miss["best"], miss["first"]] += 1
    result = []
    for (right, first), count in sorted(counts.items(), key=lambda pair: -pair[1]):
        of_right, of_first = documents[right].content, documents[first].content
        asked = [request.text for request in requests if right in request.relevant]
        result.append(
            {
                "right": right,
                "first": first,
                "count": count,
                "asked": words.missing(asked, [of_right, of_first]),
                "only_right": words.only_in(of_right, of_first),
                "only_first": words.only_in(of_first, of_right),
            }
        )
    return result


def _alike(documents: Sequence[Document], asked_for: set[str], embeddings: np.ndarray) -> list[tuple[float, str, str]]:
    """Returns similarity and ids of near-duplicates that no request tells apart, the most alike first."""
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    pairs = []
    for start in range(0, len(documents), ROWS):
        similarity = embeddings[start : start + ROWS] @ embeddings.T
        for row, column in np.argwhere(similarity >= ALIKE).tolist():
            a, b = documents[start + row].id, documents[column].id
            if column > start + row and not {a, b} <= asked_for:
                pairs.append((float(similarity[row, column]), a, b))
    return sorted(pairs, key=lambda pair: -pair[0])


def _describe_pair(one: Document, other: Document, similarity: float, words: TellingWords) -> dict[str, Any]:
    return {
        "documents": [one.id, other.id],
        "similarity": similarity,
        "only_in": [words.only_in(one.content, other.content), words.only_in(other.content, one.content)],
    }


def _nothing_fits(index: Index, texts: Sequence[str]) -> dict[str, Any]:
    """Returns what a search says to requests that nothing fits."""
    try:
        index.retriever.refusal.limit(REFUSE)
        refuse = REFUSE
    except InputError:  # it knows no limit
        refuse = None
    answered: list[dict[str, Any]] = []
    for text, hits in zip(texts, index.search(texts, k=1, refuse=refuse), strict=True):
        if hits.closest is None:
            answered.append({"text": text, "closest": hits[0].id, "probability": hits[0].probability})
    answered.sort(key=lambda answer: -answer["probability"])
    return {
        "requests": len(texts),
        "refused": None if refuse is None else len(texts) - len(answered),
        "answered": answered,
    }
