"""The paper's ablation with a strong teacher: which losses a predictor learns by, and which pairs it learns from.

    python strong_teacher.py --data BEIR_FOLDERS --llm LLM --name NAME_OF_THE_LLM [--seeds 2] [--rows ROW ...]

An LLM reads pairs of unlabelled requests, and the best ten documents of held-out ones. Losses: the pairs were chosen
on-policy by a student that learns by list, z* and squares; every student learns from these alone, by one loss or
several, over MiniLM's similarity (the prior) and without it. Pairs: half as many, or as many that the encoder's softmax
or chance draws. All students are those of the last step with gain 1: so few held-out requests cannot choose. R@1 over
all documents on 600 test queries. Writes ``results/quality/strong_teacher.json`` after each training; what is there is
skipped. What is committed has two seeds, and three of the rows over the similarity.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rabtriever import DistillConfig, Rabtriever
from rabtriever.scoring.fusion import ZERO_SHOT_BETA, Fusion
from rabtriever.training.distiller import Distiller
from rabtriever.training.targets import Targets

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.ablations import UniformPolicy  # noqa: E402
from quality.corpora import Bench, compare, hits, unlabelled  # noqa: E402
from record import machine  # noqa: E402

RESULT = Path(__file__).parents[1] / "results" / "quality" / "strong_teacher.json"
SIMILARITY, ALONE = "over the similarity", "without it"
DEFAULT = "list, z* and squares"
NONE = {"embedding_weight": 0.0, "kl_weight": 0.0, "log_odds_weight": 0.0, "list_weight": 0.0}
LOSSES = {
    "list": {"list_weight": 1.0},
    "z*": {"embedding_weight": 1.0},
    "reverse KL": {"kl_weight": 1.0},
    "squares": {"log_odds_weight": 1.0},
    "z* and reverse KL": {"embedding_weight": 1.0, "kl_weight": 1.0},
    "z* and squares": {"embedding_weight": 1.0, "log_odds_weight": 3.0},
    DEFAULT: {"embedding_weight": 0.1, "log_odds_weight": 0.1, "list_weight": 1.0},
}


class OfKnownPairs(Distiller):
    """Reads no pair beyond those that it was given, and ends with the last step's student."""

    def sample_pairs(self, queries: Tensor) -> Tensor:
        """Returns none."""
        return torch.empty(0, 2, dtype=torch.long)

    def _dev_recall(self) -> float:
        return float(len(self.log))  # each round counts as better than the one before

    def _make_retriever(self) -> Rabtriever:
        return Rabtriever(self.encoder, self.student.predictor, fusion=Fusion(self.student.beta))


class WithoutSimilarity:
    """An encoder whose embeddings a predictor reads, and whose similarity nobody uses."""

    has_similarity = False

    def __init__(self, encoder: Any) -> None:  # noqa: ANN401
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Returns what the encoder has."""
        return getattr(self._encoder, name)


class Alone(OfKnownPairs):
    """The same queries and targets, but a student that starts from no similarity."""

    def _make_student(self) -> None:
        self.encoder, self.first_beta = WithoutSimilarity(self.encoder), 0.0
        super()._make_student()


class EncoderPolicy(Distiller):
    """Pairs that the encoder's softmax draws."""

    def preferences(self, queries: Tensor) -> Tensor:
        """Returns log-odds of the similarity alone."""
        return ZERO_SHOT_BETA * self.data.train.states[queries] @ self.data.z_d.T


# Who chooses, and the share of the calls.
POLICIES = {
    "on-policy, half as many": (Distiller, 0.5),
    "the encoder's softmax": (EncoderPolicy, 1.0),
    "uniform": (UniformPolicy, 1.0),
}


class Trial:
    """Requests, an LLM that reads pairs of them, and the file of results."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.bench = args, Bench(args)
        self.data = self.bench.data(args.corpus)
        self.train, self.encoder = unlabelled(self.data, args.requests), self.bench.model("minilm")
        self.base = hits(Rabtriever(self.encoder), self.data, "test")
        about = {name: getattr(args, name) for name in ("name", "corpus", "requests", "calls")}
        self.result = {"about": about, "minilm": self.base.mean(), "losses": {}, "policies": {}, "machine": machine()}
        if RESULT.is_file():
            self.result = json.loads(RESULT.read_text())
            if self.result["about"] != about:
                raise SystemExit(f"{RESULT}: of {self.result['about']}; move it away to measure {about}")

    def distiller(self, kind: type[Distiller], loss: str, calls: int, seed: int = 0) -> Distiller:
        """Returns the same training for all, but for what is named."""
        config = DistillConfig(teacher_calls=calls, seed=seed, steps=2000, **{**NONE, **LOSSES[loss]})
        return kind(self.encoder, self.bench.teacher("llm"), config)

    def read(self, policy: type[Distiller], share: float) -> Targets:
        """Returns the pairs that a policy chose, and what the teacher says of them."""
        distiller = self.distiller(policy, DEFAULT, round(share * self.args.calls))
        distiller.train(self.train)
        return distiller.targets

    def learn(self, runs: list[dict[str, Any]], kind: type[Distiller], loss: str, known: Targets) -> None:
        """Trains and measures a student of each seed that has no result yet."""
        for seed in range(len(runs), self.args.seeds):
            started = time.perf_counter()
            distiller = self.distiller(kind, loss, self.args.calls, seed)
            ours = hits(distiller.train(self.train, known), self.data, "test")
            seconds = round(time.perf_counter() - started)
            pairs = len(known.pairs)
            runs.append({**compare(ours, self.base), "pairs": pairs, "seconds": seconds, "of_query": ours.tolist()})
            RESULT.write_text(json.dumps(self.result, default=float) + "\n")
            print(kind.__name__, loss, ours.mean(), seconds, flush=True)


def main() -> None:
    """Trains and measures what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--llm", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--corpus", default="hwu64")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--calls", type=int, default=2800)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", nargs="+", default=[SIMILARITY, ALONE, "policies"])
    trial = Trial(parser.parse_args())
    students = {SIMILARITY: OfKnownPairs, ALONE: Alone}
    known = trial.read(Distiller, 1.0) if students.keys() & set(trial.args.rows) else Targets([])
    for prior in [prior for prior in students if prior in trial.args.rows]:
        for loss in LOSSES:
            trial.learn(trial.result["losses"].setdefault(loss, {}).setdefault(prior, []), students[prior], loss, known)
    for name, (policy, share) in POLICIES.items() if "policies" in trial.args.rows else ():
        read = trial.read(policy, share)
        trial.learn(trial.result["policies"].setdefault(name, []), OfKnownPairs, DEFAULT, read)


if __name__ == "__main__":
    main()
