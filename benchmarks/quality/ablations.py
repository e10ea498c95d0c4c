"""Distillation by other policies of sampling pairs and other divergences from the teacher: both lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from bm25 import BM25S
from torch import Tensor

from rabtriever.data import RetrievalData
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.llm.backbone import Pooling
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.training.config import DistillConfig
from rabtriever.training.distill import Distiller
from rabtriever.training.losses import embedding_error, reverse_kl
from rabtriever.training.teacher import Teacher

VOCABULARY_PAIRS = 32  # of a step for a KL over the vocabulary, whose tens of thousands of logits are what costs
PAIRS_PER_STEP = 256
Divergence = Callable[[Distiller, Tensor, Tensor, Tensor], Tensor]


class UniformPolicy(Distiller):
    """Pairs of random documents."""

    def preferences(self, queries: Tensor) -> Tensor:
        """Returns random numbers: no document is preferred."""
        return torch.rand(len(queries), len(self.data.documents), generator=self.generator)


class BM25Policy(Distiller):
    """Pairs that BM25 ranks high."""

    def preferences(self, queries: Tensor) -> Tensor:
        """Returns BM25's scores (n, k)."""
        texts = self.data.train.texts
        return torch.tensor(np.stack([self.bm25.scores(texts[query]) for query in queries.tolist()]))

    def prepare(self, data: RetrievalData) -> None:
        """Reads the corpus for BM25, too."""
        super().prepare(data)
        self.bm25 = BM25S(self.data.documents)


class TeacherPolicy(Distiller):
    """Pairs that the teacher itself ranks: it must score every document of a query, and all of that is learnt from."""

    def sample_pairs(self, queries: Tensor) -> Tensor:
        """Returns all pairs of as many queries as this round's share of the calls pays for."""
        n_documents, calls = len(self.data.documents), self.schedule.training_calls
        affordable = -(-calls // self.config.rounds // n_documents), (calls - self.cached_teacher.calls) // n_documents
        pairs = torch.cartesian_prod(queries[: min(affordable)], torch.arange(n_documents))
        excluded = torch.cat([self.data.train.own_pairs, self.targets.pairs])
        keys, left_out = (some[:, 0] * n_documents + some[:, 1] for some in (pairs, excluded))
        return pairs[~torch.isin(keys, left_out)]


def forward_kl(distiller: Distiller, predicted: Tensor, target: Tensor, query: Tensor) -> Tensor:
    """Computes KL(teacher || student) over the two choices."""
    w = distiller.student.predictor.choice_direction
    return reverse_kl(target @ w, predicted @ w)


def vocabulary_kl(distiller: Distiller, predicted: Tensor, target: Tensor, query: Tensor) -> Tensor:
    """Computes KL(student || teacher) over all next tokens, in nats, of a part of the batch."""
    lm_head = distiller.encoder.llm.loaded.model.get_output_embeddings().weight.detach().float()
    some = predicted[:VOCABULARY_PAIRS], target[:VOCABULARY_PAIRS]
    student, teacher = (F.log_softmax(states @ lm_head.T, dim=1) for states in some)
    return (student.exp() * (student - teacher)).sum(1).mean()


def documents_kl(distiller: Distiller, predicted: Tensor, target: Tensor, query: Tensor) -> Tensor:
    """Computes KL(student || teacher) over the scored documents of each query, in nats, mean over queries."""
    w = distiller.student.predictor.choice_direction
    names, group = torch.unique(query, return_inverse=True)
    group = group.to(predicted.device)

    def log_softmax(values: Tensor) -> Tensor:
        top = values.new_full((len(names),), float("-inf")).scatter_reduce(0, group, values.detach(), "amax")
        mass = values.new_zeros(len(names)).index_add(0, group, (values - top[group]).exp())
        return values - (top + mass.log())[group]

    student, teacher = log_softmax(predicted @ w), log_softmax(target @ w)
    return (student.exp() * (student - teacher)).sum() / len(names)


POLICIES = {"on": Distiller, "uniform": UniformPolicy, "bm25": BM25Policy, "teacher": TeacherPolicy}
DIVERGENCES: dict[str, Divergence] = {
    "forward": forward_kl,
    "vocabulary": vocabulary_kl,
    "documents": documents_kl,
}


def make_distiller(
    reranker: GenerativeReranker,
    config: DistillConfig,
    policy: str = "on",
    divergence: str | None = None,
    pooling: Pooling = "mean",
) -> Distiller:
    """Returns a distiller of a policy that learns by a divergence (its weight: ``kl_weight``), or as the product."""
    base = POLICIES[policy]
    encoder, teacher = LLMEncoder(reranker.llm, pooling), Teacher.of(rerankers=[reranker])
    if divergence is None:
        return base(encoder, teacher, config)
    diverge = DIVERGENCES[divergence]

    class Ablation(base):
        def sample_rows(self) -> Tensor:
            """Returns the pairs of a step: for ``documents`` whole queries, about as many pairs."""
            pairs = self.targets.pairs
            size = (
                PAIRS_PER_STEP if divergence != "documents" else max(1, PAIRS_PER_STEP // self.config.pairs_per_query)
            )
            rows = torch.randint(len(pairs), (size,), generator=self.generator)
            return torch.isin(pairs[:, 0], pairs[rows, 0]).nonzero().flatten() if divergence == "documents" else rows

        def compute_pair_losses(self) -> dict[str, Tensor]:
            rows, predictor = self.sample_rows(), self.student.predictor
            (q, d), target = self.targets.pairs[rows].T, self.targets.states[rows]
            predicted = predictor(self.data.train.states[q], self.data.z_d[d])
            losses = {"loss/embedding": embedding_error(predicted, target, predictor.output_scale)}
            return {**losses, "loss/kl": diverge(self, predicted, target, q)}

    return Ablation(encoder, teacher, config)
