"""Hard negatives: the documents that a quick student, trained on the labels, mistakes for the right one."""

from __future__ import annotations

import sys

import torch

from rabtriever.data import RetrievalData
from rabtriever.llm.backbone import Backbone
from rabtriever.llm.prompt import Prompt
from rabtriever.predictor import MLPPredictor
from rabtriever.training.labels import train_on_labels

MOST_QUERIES = 6000
STEPS = 1500


def confusable_documents(
    data: RetrievalData, backbone: Backbone, prompt: Prompt, w: torch.Tensor, seed: int = 0, count: int = 32
) -> dict[str, list[str]]:
    """For each document with training queries, the others that rank highest for those queries.

    The frozen LLM reads queries and documents once; a predictor trained on the labels (minutes on a CPU, no pair is
    read) ranks all documents for each query. Random negatives are solved within a few hundred pairs; these are not.

    Args:
        data: Documents, queries, and qrels with a train split.
        backbone: The LLM, untrained.
        prompt: Its prompt.
        w: float32 (H,), w_yes - w_no.
        seed: Of the sample and the predictor.
        count: Documents to keep, hardest first.

    Returns:
        Document id -> ids.
    """
    ids = list(data.documents)
    place = {document: i for i, document in enumerate(ids)}
    judged = data.judged("train", MOST_QUERIES, seed)
    positives = [[place[d] for d, grade in data.qrels["train"][query].items() if grade > 0] for query in judged]
    z_q = backbone.states(prompt.query_ids(list(judged.values()), alone=True), "mean", "mining: reading queries")
    contents = [document.content for document in data.documents.values()]
    z_d = backbone.states(prompt.document_ids(contents), "mean", "mining: reading documents")
    z_q, z_d = z_q.clone(), z_d.clone()  # out of inference mode
    predictor = train_on_labels(z_q, z_d, positives, w, STEPS, seed)
    return _confused(predictor, z_q, z_d, positives, ids, w, min(count, len(ids) - 1))


@torch.no_grad()
def _confused(
    predictor: MLPPredictor,
    z_q: torch.Tensor,
    z_d: torch.Tensor,
    positives: list[list[int]],
    ids: list[str],
    w: torch.Tensor,
    count: int,
) -> dict[str, list[str]]:
    votes: dict[int, torch.Tensor] = {}
    best = 0
    for start in range(0, len(z_q), 64):
        blocks = [predictor.log_odds(z_q[start : start + 64], block, w) for block in z_d.split(512)]
        scores = torch.cat(blocks, dim=1)
        for row, right in zip(scores, positives[start : start + 64], strict=True):
            best += int(row.argmax()) in right
            probabilities = row.softmax(0)
            probabilities[right] = 0
            for document in right:
                votes[document] = votes.get(document, torch.zeros(())) + probabilities
    print(f"mining: R@1 of the quick student on its own training queries {best / len(z_q):.3f}", file=sys.stderr)
    return {
        ids[document]: [ids[i] for i in vote.topk(count + 1).indices.tolist() if i != document][:count]
        for document, vote in votes.items()
    }
