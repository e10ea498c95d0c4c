"""The settings of both trainings: one dataclass each, from which the command line takes its flags."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from rabtriever.errors import InputError

OBJECTIVES = ("listwise", "sft", "dpo")
BOUNDS = {
    "min": (operator.ge, "at least"),
    "max": (operator.le, "at most"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
}
T = TypeVar("T")


def _option(default: T, text: str, **rules: Any) -> T:  # noqa: ANN401
    """Returns a field with a help text; its rules are ``choices``, or those of ``BOUNDS`` for numbers."""
    made: T = field(default=default, metadata={"help": text, **rules})
    return made


def _case(text: str, **rules: Any) -> Any:  # noqa: ANN401
    """Returns a field whose default, None, stands for a value that depends on the case."""
    return field(default=None, metadata={"help": text, "shown": "by case", **rules})


class _Checked:
    """A dataclass whose values obey the rules of their fields."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            name, value, rules = item.name, getattr(self, item.name), item.metadata
            if value is None:
                continue
            if "choices" in rules and value not in rules["choices"]:
                raise InputError(f"{name} {value!r}: choose one of {', '.join(rules['choices'])}", param=name)
            for rule, (holds, words) in BOUNDS.items():
                if rule in rules and not holds(value, rules[rule]):  # never of NaN
                    raise InputError(f"{name} {value!r}: must be {words} {rules[rule]}", param=name)


@dataclass(frozen=True)
class RerankerTrainingConfig(_Checked):
    """Options of a reranker's training; every field is a flag of ``rabtriever train``.

    Raises:
        InputError: a value out of its range; its ``param`` is the field's name.
    """

    objective: str = _option("listwise", "listwise (+ pointwise), sft (pointwise alone) or dpo", choices=OBJECTIVES)
    steps: int = _option(500, "optimiser steps", min=1)
    queries_per_step: int = _option(16, "queries of a step; more if its documents need more", min=1)
    documents_per_step: int = _option(16, "documents of a step, which its queries share", min=2)
    negatives: int = _option(3, "documents of a step that each query is scored with as negatives", min=1)
    hard_negative_share: float = _option(
        0.7, "share of a step's documents and of a query's negatives that are hard: easily mistaken", min=0, max=1
    )
    student_weight: float = _option(
        0.0, "weight of the losses of a jointly trained student: the LLM learns to encode texts separately", min=0
    )
    learning_rate: float = _option(4e-4, "peak learning rate, cosine decay after 5%% warm-up", above=0)
    lora_rank: int = _option(16, "rank of the adapter", min=1)
    lora_depth: float = _option(0.67, "upper share of the layers that get an adapter", above=0, max=1)
    checkpoint_every: int = _option(50, "steps between checkpoints", min=1)
    seed: int = _option(0, "seed of all draws")


@dataclass(frozen=True)
class TuneEncoderConfig(_Checked):
    """Options of tuning an encoder (:func:`rabtriever.training.tune_encoder.tune_encoder`).

    Raises:
        InputError: a value out of its range; its ``param`` is the field's name.
    """

    method: str = _option("full", "full: all weights, or lora: an adapter, merged at the end", choices=("full", "lora"))
    steps: int = _option(400, "optimiser steps", min=1)
    queries_per_step: int = _option(48, "requests of a step, which share its documents", min=1)
    learning_rate: float = _case("peak learning rate, cosine decay after 10%% warm-up", above=0)
    lora_rank: int = _option(16, "rank of the adapter", min=1)
    seed: int = _option(0, "seed of all draws")

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate, by the method if none was given."""
        return self.learning_rate or {"full": 5e-5, "lora": 5e-4}[self.method]


# Defaults by what the retriever stands on: (an LLM's states, an encoder with a similarity).
CASES: dict[str, tuple[Any, Any]] = {
    "pairs_per_query": (3, 7),
    "exploration": (0.5, 0.0),
    "list_weight": (0.0, 1.0),
    "embedding_weight": (1.0, 0.1),
    "log_odds_weight": (3.0, 0.1),
    "label_weight": (0.5, 1.0),
    "steps": (8000, 0),  # 0: by the number of queries
}


@dataclass(frozen=True)
class DistillConfig(_Checked):
    """Options of a distillation; every field is a flag of ``rabtriever distill``.

    A field that is None is chosen by what the retriever stands on: an LLM's states (the paper's case), or an encoder
    with a similarity of its own. The values of both were measured.

    Raises:
        InputError: a value out of its range; its ``param`` is the field's name. Or no loss has a weight.
    """

    teacher_calls: int = _option(
        12_000, "most pairs that rerankers among the teachers score, calibration included; 0: none", min=0
    )
    minutes: float = _option(0.0, "time for the rounds; 0: no limit", min=0)
    pairs_per_query: int = _case("pairs of a query in a round, its positive among them; more if queries are few", min=1)
    rounds: int = _option(8, "how often the student ranks anew", min=1)
    exploration: float = _case("share of pairs drawn uniformly among good documents, not by policy", min=0, max=1)
    temperature: float = _option(1.0, "of the policy, a softmax of log-odds", above=0)
    list_weight: float = _case("weight of the cross-entropy with the teacher's softmax over all documents", min=0)
    embedding_weight: float = _case("weight of the squared error of the context embedding", min=0)
    log_odds_weight: float = _case("weight of the squared error of the log-odds", min=0)
    kl_weight: float = _option(0.0, "weight of the reverse KL; 1 with log_odds_weight 0 is the paper's loss", min=0)
    label_weight: float = _case("weight of the softmax of labels over documents", min=0)
    label_smoothing: float = _option(
        0.2,
        "share of a label's target that is the softmax of teachers, else of the encoder",
        min=0,
        below=1,
    )
    max_labelled_queries: int = _option(0, "most labelled queries to use; 0: all", min=0)
    new_document_gain: float = _option(
        0.25,
        "share of the correction that documents get which were not trained on; 1: all have labels, none will come",
        min=0,
        max=1,
    )
    examples: int = _option(16_384, "most labelled queries that a search compares its query with; 0: none", min=0)
    predictor: str = _option("mlp", "mlp, or quadratic: its score is an inner product", choices=("mlp", "quadratic"))
    hidden_units: int = _option(256, "of the predictor; an index stores as many numbers per document", min=1)
    steps: int = _case("optimiser steps; 0: by the number of queries", min=0)
    learning_rate: float = _option(1e-3, "constant through the rounds, cosine decay after them", above=0)
    weight_decay: float = _option(0.05, "of AdamW", min=0)
    dropout: float = _option(0.2, "share of the embeddings' dimensions left out in a step", min=0, below=1)
    calibration_queries: int = _option(
        100, "dev queries whose ten best documents rerankers read for their probabilities; 0: fit none", min=0
    )
    seed: int = _option(0, "seed of all draws")

    def resolve(self, over_encoder: bool) -> DistillConfig:
        """Returns the options with those that are None chosen by the case; raises InputError if nothing would teach."""
        chosen = {name: case[over_encoder] for name, case in CASES.items() if getattr(self, name) is None}
        config = replace(self, **chosen)
        if not config.label_weight and not config.learns_from_teacher:
            raise InputError("label_weight 0 and no weight of a teacher's loss: nothing to learn from; raise one")
        return config

    @property
    def learns_from_teacher(self) -> bool:
        """Whether any of the teacher's losses has a weight."""
        weights = self.list_weight, self.embedding_weight, self.log_odds_weight, self.kl_weight
        return any(weight is None or weight > 0 for weight in weights)
