"""Hard negatives: the documents that lie nearest to a query and are not right."""

from __future__ import annotations

from random import Random

import torch

from rabtriever.data import RetrievalData
from rabtriever.progress import Progress
from rabtriever.training.apart import TEMPERATURE, Contrast, cosine

MOST_QUERIES = 2000


@torch.no_grad()
def confusable_documents(
    data: RetrievalData, positives: dict[str, list[str]], contrast: Contrast, seed: int = 0, count: int = 32
) -> dict[str, list[str]]:
    """For each document with training queries, the others that rank highest for those queries.

    Random negatives are solved within a few hundred pairs; these are not.

    Args:
        data: Documents and queries.
        positives: Training query -> its documents.
        contrast: The LLM as it reads apart by now.
        seed: Of the sample of queries.
        count: Documents to keep, hardest first.

    Returns:
        Document id -> ids.
    """
    ids = list(data.documents)
    place = {document: i for i, document in enumerate(ids)}
    queries = Random(seed).sample(list(positives), min(MOST_QUERIES, len(positives)))
    z_q = _read(contrast, contrast.prompt.query_ids([data.queries[query] for query in queries], alone=True), "queries")
    z_d = _read(contrast, contrast.prompt.document_ids([d.content for d in data.documents.values()]), "documents")
    votes: dict[int, torch.Tensor] = {}
    for query, scores in zip(queries, cosine(z_q, z_d)[-1] / TEMPERATURE, strict=True):
        right = [place[document] for document in positives[query]]
        mass = scores.softmax(0)
        mass[right] = 0
        for document in right:
            votes[document] = votes.get(document, torch.zeros(())) + mass
    return {
        ids[document]: [ids[i] for i in vote.topk(min(count, len(ids) - 1) + 1).indices.tolist() if i != document][
            :count
        ]
        for document, vote in votes.items()
    }


def _read(contrast: Contrast, sequences: list[list[int]], label: str) -> torch.Tensor:
    parts = []
    with Progress(f"mining: reading {label}", len(sequences)) as bar:
        for start in range(0, len(sequences), 256):
            parts.append(contrast.states(sequences[start : start + 256]).cpu())
            bar.advance(len(parts[-1]))
    return torch.cat(parts)
