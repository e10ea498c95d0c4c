"""The settings of both trainings: one dataclass each, from which the command line takes its flags."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, fields
from typing import Any

from rabtriever.errors import InputError

KINDS = ("mlp", "quadratic")  # as in rabtriever.scoring.predictor, which need not be loaded to parse flags
POOLINGS = ("mean", "last")
BOUNDS = {
    "min": (operator.ge, "at least"),
    "max": (operator.le, "at most"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
}
OBJECTIVES = ("listwise", "sft", "dpo")


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
    """Options of a distillation; every field is a flag of ``rabtriever distill``."""

    teacher_calls: int = field(
        default=12_000,
        metadata={"help": "most pairs that the teacher scores, calibration included; 0: labels alone", "min": 0},
    )
    pairs_per_query: int = field(
        default=3,
        metadata={"help": "pairs of a query in a round, its positive among them; more if queries are few", "min": 1},
    )
    rounds: int = field(default=8, metadata={"help": "how often the student ranks anew", "min": 1})
    exploration: float = field(
        default=0.5,
        metadata={"help": "share of pairs drawn uniformly among good documents, not by policy", "min": 0, "max": 1},
    )
    temperature: float = field(default=1.0, metadata={"help": "of the policy, a softmax of log-odds", "above": 0})
    embedding_weight: float = field(
        default=1.0, metadata={"help": "weight of the squared error of the context embedding", "min": 0}
    )
    log_odds_weight: float = field(
        default=3.0, metadata={"help": "weight of the squared error of the log-odds", "min": 0}
    )
    kl_weight: float = field(
        default=0.0,
        metadata={"help": "weight of the reverse KL; 1 with log_odds_weight 0 is the paper's loss", "min": 0},
    )
    label_weight: float = field(
        default=0.5, metadata={"help": "weight of the softmax of labels over all documents", "min": 0}
    )
    max_labelled_queries: int = field(default=0, metadata={"help": "most labelled queries to use; 0: all", "min": 0})
    predictor: str = field(
        default="mlp", metadata={"help": "mlp, or quadratic: its score is an inner product", "choices": KINDS}
    )
    hidden_units: int = field(
        default=256, metadata={"help": "of the predictor; an index stores as many numbers per document", "min": 1}
    )
    pooling: str = field(
        default="mean", metadata={"help": "state of a text: mean over its tokens, or last token", "choices": POOLINGS}
    )
    steps: int = field(default=8000, metadata={"help": "optimiser steps", "min": 1})
    learning_rate: float = field(
        default=1e-3, metadata={"help": "constant through the rounds, cosine decay after them", "above": 0}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "of AdamW", "min": 0})
    dropout: float = field(
        default=0.2, metadata={"help": "share of the embeddings' dimensions left out in a step", "min": 0, "below": 1}
    )
    calibration_queries: int = field(
        default=100, metadata={"help": "dev queries whose ten best documents fit the probabilities; 0: none", "min": 0}
    )
    seed: int = field(default=0, metadata={"help": "seed of all draws"})

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            InputError: a value out of its range; its ``param`` is the field's name.
        """
        check_fields(self)
        if not self.label_weight and not (self.teacher_calls and self.learns_from_teacher):
            raise InputError("label_weight 0 without teacher_calls or their weights: nothing to learn from; raise one")

    @property
    def learns_from_teacher(self) -> bool:
        """Whether any of the teacher's losses has a weight."""
        return bool(self.embedding_weight + self.log_odds_weight + self.kl_weight)


def check_fields(config: Any) -> None:  # noqa: ANN401
    """Raises InputError unless the fields of a dataclass are what their metadata asks for.

    Args:
        config: The dataclass. Metadata may hold ``choices``, and of numbers the bounds ``min`` and ``max`` (inclusive),
            ``above`` and ``below`` (exclusive).
    """
    for item in fields(config):
        value, rules = getattr(config, item.name), item.metadata
        if "choices" in rules and value not in rules["choices"]:
            choices = ", ".join(rules["choices"])
            raise InputError(f"{item.name} {value!r}: choose one of {choices}", param=item.name)
        for rule, (holds, words) in BOUNDS.items():
            if rule in rules and not holds(value, rules[rule]):  # never of NaN
                raise InputError(f"{item.name} {value!r}: must be {words} {rules[rule]}", param=item.name)
