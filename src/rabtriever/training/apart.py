"""Reading apart: before it reads pairs, the LLM learns to bring a query's states near its document's.

A pair costs an LLM pass over the query for every document it is compared with; apart, one pass compares it with all.
So one epoch over all labelled queries is cheap, and what it teaches is there when pairs are read: the comparison is
asked for in the middle layers too, whose states the layers above can attend to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rabtriever.data import RetrievalData
from rabtriever.llm.backbone import Backbone
from rabtriever.llm.prompt import Prompt
from rabtriever.training.losses import listwise

QUERIES = 96  # a step
TEMPERATURE = 0.05
DEPTH = 2 / 3  # where, besides the last layer, the states are compared
MEMORY = 1024  # documents whose last states stay candidates


@dataclass(frozen=True)
class Apart:
    """Labelled queries of one step.

    Attributes:
        queries: Texts.
        documents: Texts, one positive of each query, each once.
        right: All positives' texts of each query.
    """

    queries: list[str]
    documents: list[str]
    right: list[set[str]]


def apart_batch(data: RetrievalData, positives: dict[str, list[str]], step: int, seed: int) -> Apart:
    """The queries of one step: the next in an order that is drawn anew each epoch."""
    size = min(QUERIES, len(positives))
    epoch, place = divmod(step, max(1, len(positives) // size))
    order = Random(f"{seed}/apart/{epoch}").sample(list(positives), len(positives))
    queries = order[place * size : (place + 1) * size]
    random = Random(f"{seed}/apart/{epoch}/{place}")
    documents = sorted({random.choice(positives[query]) for query in queries})
    return Apart(
        [data.queries[query] for query in queries],
        [data.documents[document].content for document in documents],
        [{data.documents[document].content for document in positives[query]} for query in queries],
    )


class Contrast(nn.Module):
    """Softmax over documents of the cosine between mean states, in the middle and at the end of the LLM (InfoNCE).

    Documents of past steps stay candidates with the states they had (cross-batch memory, arXiv 1912.06798).

    Args:
        backbone: The LLM in training.
        prompt: Its prompt.
    """

    def __init__(self, backbone: Backbone, prompt: Prompt) -> None:
        super().__init__()
        self.backbone, self.prompt = backbone, prompt
        self.memory: dict[str, Tensor] = {}

    def forward(self, batch: Apart) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, the last layer's scores (n_queries, n_candidates), and which candidates are right."""
        z_q = self.states(self.prompt.query_ids(batch.queries, alone=True))
        z_d = self.states(self.prompt.document_ids(batch.documents))
        past = [text for text in self.memory if text not in set(batch.documents)]
        z_d = torch.cat([z_d, *(self.memory[text][None] for text in past)])
        candidates = [*batch.documents, *past]
        positive = torch.tensor([[text in right for text in candidates] for right in batch.right], device=z_d.device)
        scores = cosine(z_q, z_d) / TEMPERATURE
        for text, states in zip(batch.documents, z_d.detach(), strict=False):
            self.memory.pop(text, None)
            self.memory[text] = states
        while len(self.memory) > MEMORY:
            del self.memory[next(iter(self.memory))]
        return sum(listwise(layer, positive) for layer in scores) / len(scores), scores[-1], positive  # type: ignore[return-value]

    def states(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Mean states in the middle and at the end, float32 (n, 2, H); differentiable."""
        return self.backbone.mean_states(sequences, DEPTH)


def cosine(z_q: Tensor, z_d: Tensor) -> Tensor:
    """Cosines (layers, n, k) of states (n, layers, H) and (k, layers, H), each side standardised by its own spread."""

    def unit(states: Tensor) -> Tensor:
        still = states.detach()
        return F.normalize((states - still.mean(0)) / still.std(0, correction=0).clamp_min(1e-3), dim=-1)

    with torch.autocast(z_q.device.type, enabled=False):
        return torch.einsum("qlh,dlh->lqd", unit(z_q), unit(z_d))
