"""The settings of both trainings: one dataclass each, from which the command line takes its flags."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, fields
from typing import Any

from rabtriever.errors import InputError

KINDS = ("mlp", "quadratic")  # as in rabtriever.scoring.predictor, which need not be loaded to parse flags
POOLINGS = ("mean", "last")
OBJECTIVES = ("listwise", "sft", "dpo")
BOUNDS = {
    "min": (operator.ge, "at least"),
    "max": (operator.le, "at most"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
}
POLICIES = ("on", "uniform", "bm25", "teacher")
DIVERGENCES = ("squares", "reverse", "forward", "vocabulary", "documents")


@dataclass(frozen=True)
class RerankerTrainingConfig:
    """Options of a reranker's training; every field is a flag of ``rabtriever train``."""

    objective: str = field(
        default="listwise",
        metadata={"help": "listwise (+ pointwise), sft (pointwise alone) or dpo", "choices": OBJECTIVES},
    )
    steps: int = field(default=500, metadata={"help": "optimiser steps", "min": 1})
    queries_per_step: int = field(
        default=16, metadata={"help": "queries of a step; more if its documents need more", "min": 1}
    )
    documents_per_step: int = field(
        default=16, metadata={"help": "documents of a step, which its queries share", "min": 2}
    )
    negatives: int = field(
        default=3, metadata={"help": "documents of a step that each query is scored with as negatives", "min": 1}
    )
    hard_negative_share: float = field(
        default=0.7,
        metadata={
            "help": "share of a step's documents and of a query's negatives that are hard: easily mistaken",
            "min": 0,
            "max": 1,
        },
    )
    student_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the losses of a jointly trained student: the LLM learns to encode texts separately",
            "min": 0,
        },
    )
    learning_rate: float = field(
        default=4e-4, metadata={"help": "peak learning rate, cosine decay after 5%% warm-up", "above": 0}
    )
    lora_rank: int = field(default=16, metadata={"help": "rank of the adapter", "min": 1})
    lora_depth: float = field(
        default=0.67,
        metadata={"help": "upper share of the layers that get an adapter", "above": 0, "max": 1},
    )
    checkpoint_every: int = field(default=50, metadata={"help": "steps between checkpoints", "min": 1})
    seed: int = field(default=0, metadata={"help": "seed of all draws"})

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            InputError: a value out of its range; its ``param`` is the field's name.
        """
        check_fields(self)


@dataclass(frozen=True)
class DistillConfig:
    """How a retriever is distilled; every field is a flag of ``rabtriever distill``."""

    policy: str = field(
        default="on",
        metadata={
            "help": "whose high-ranked documents the teacher is asked about: on (the student's), bm25, teacher (its "
            "own, of fewer queries: each document scored is a call) or uniform (nobody's)"
        },
    )
    teacher_calls: int = field(default=12_000, metadata={"help": "pairs the teacher scores in all; 0: labels alone"})
    pairs: int = field(
        default=3,
        metadata={"help": "pairs a query, more if the queries are few: a positive if judged, policy and exploration"},
    )
    rounds: int = field(default=8, metadata={"help": "how often the student ranks anew"})
    exploration: float = field(default=0.5, metadata={"help": "chance that a pair is drawn uniformly"})
    temperature: float = field(default=1.0, metadata={"help": "of the policy"})
    mse_weight: float = field(default=1.0, metadata={"help": "weight of the squared error of the embedding"})
    kl_weight: float = field(default=3.0, metadata={"help": "lambda, weight of the divergence (or of the squares)"})
    divergence: str = field(
        default="squares",
        metadata={
            "help": "squares of the log-odds' difference; KL over the two choices, reverse (student || teacher, the "
            "paper's) or forward; reverse KL over the vocabulary, or over a query's scored documents"
        },
    )
    label_weight: float = field(default=0.5, metadata={"help": "weight of the label softmax over all documents"})
    queries: int = field(default=0, metadata={"help": "labelled queries to use at most; 0: all"})
    predictor: str = field(default="mlp", metadata={"help": "mlp, or quadratic: its score is an inner product"})
    width: int = field(default=256, metadata={"help": "hidden units m: numbers stored per document"})
    pooling: str = field(default="mean", metadata={"help": "mean or last: how a segment's state is read"})
    steps: int = field(default=8000, metadata={"help": "optimiser steps, spread evenly over the rounds"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate, cosine decay"})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's"})
    dropout: float = field(default=0.2, metadata={"help": "share of the states' dimensions left out in each step"})
    calibration: int = field(
        default=100, metadata={"help": "development queries whose ten best documents fit the probabilities; 0: none"}
    )
    seed: int = field(default=0, metadata={"help": "seed of all draws"})

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a value out of its range.
        """
        choices = {"policy": POLICIES, "divergence": DIVERGENCES, "predictor": KINDS, "pooling": POOLINGS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if min(self.pairs, self.rounds, self.width, self.steps) < 1 or min(self.queries, self.teacher_calls) < 0:
            raise InputError("pairs, rounds, width and steps must be at least 1, queries and teacher_calls at least 0")
        if not self.label_weight and not (self.teacher_calls and self.mse_weight + self.kl_weight):
            raise InputError("label_weight 0 without teacher_calls or their weights: nothing to learn from; raise one")
        if not 0 <= self.exploration <= 1 or not 0 <= self.dropout < 1:
            raise InputError("exploration must lie in [0, 1] and dropout in [0, 1)")
        if (
            min(self.temperature, self.learning_rate) <= 0
            or min(self.weight_decay, self.mse_weight, self.kl_weight, self.label_weight, self.calibration) < 0
        ):
            raise InputError("temperature and learning_rate must be above 0, no weight and no calibration below 0")


def check_fields(config: Any) -> None:  # noqa: ANN401
    """Raises InputError unless the fields of a dataclass are what their metadata asks for; NaN never is.

    Args:
        config: The dataclass. Metadata may hold ``choices``, and of numbers ``min`` and ``max`` (inclusive) and
            ``above`` and ``below`` (exclusive).
    """
    for item in fields(config):
        value, rules = getattr(config, item.name), item.metadata
        if "choices" in rules and value not in rules["choices"]:
            raise InputError(f"{item.name} {value!r}: choose one of {', '.join(rules['choices'])}", param=item.name)
        for rule, (holds, wanted) in BOUNDS.items():
            if rule in rules and not holds(value, rules[rule]):
                raise InputError(f"{item.name} {value!r}: must be {wanted} {rules[rule]}", param=item.name)
