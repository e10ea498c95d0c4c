"""The paper's ablation with a strong teacher: what a predictor learns from the same pairs by each loss.

    python losses.py --data BEIR_FOLDERS --llm LLM [--corpus hwu64] [--requests 3000] [--calls 5600] [--seeds 3]

An LLM reads pairs of unlabelled requests, chosen on-policy by a student with all losses; then every student learns from
these pairs alone, by one loss or several, over MiniLM's similarity (the prior) and over the same embeddings without it.
R@1 over all documents on 600 test queries. Writes ``results/quality/losses.json`` after each row; those that are there
are skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rabtriever import DistillConfig, Rabtriever
from rabtriever.training.distiller import Distiller
from rabtriever.training.targets import Targets

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.corpora import Bench, compare, hits, unlabelled  # noqa: E402
from record import machine  # noqa: E402

RESULT = Path(__file__).parents[1] / "results" / "quality" / "losses.json"
NAMES = ("embedding_weight", "kl_weight", "log_odds_weight", "list_weight")
LOSSES = {
    "z*": (1.0, 0.0, 0.0, 0.0),
    "reverse KL": (0.0, 1.0, 0.0, 0.0),
    "squares": (0.0, 0.0, 1.0, 0.0),
    "list": (0.0, 0.0, 0.0, 1.0),
    "z* and reverse KL": (1.0, 1.0, 0.0, 0.0),
    "z* and squares": (1.0, 0.0, 3.0, 0.0),
    "all but KL": (0.1, 0.0, 0.1, 1.0),
}


class WithoutSimilarity:
    """An encoder whose embeddings a predictor reads, and whose similarity nobody uses."""

    has_similarity = False

    def __init__(self, encoder: Any) -> None:  # noqa: ANN401
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Returns what the encoder has."""
        return getattr(self._encoder, name)


class OfKnownPairs(Distiller):
    """Reads no pair beyond those that it was given; dev queries are read as ever."""

    def sample_pairs(self, queries: Tensor) -> Tensor:
        """Returns none."""
        return torch.empty(0, 2, dtype=torch.long)


def config_of(loss: str, calls: int, seed: int) -> DistillConfig:
    """Returns the same training for both students, but for the loss."""
    weights = dict(zip(NAMES, LOSSES[loss], strict=True))
    return DistillConfig(teacher_calls=calls, seed=seed, steps=2000, pairs_per_query=7, exploration=0.0, **weights)


def read_pairs(bench: Bench, data: Any, calls: int) -> Targets:  # noqa: ANN401
    """Returns the pairs that a student with all losses chose, and what the teacher says of them."""
    distiller = Distiller(bench.model("minilm"), bench.teacher("llm"), config_of("all but KL", calls, 0))
    distiller.train(data)
    return distiller.targets


def main() -> None:
    """Trains and measures what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--llm", required=True)
    parser.add_argument("--corpus", default="hwu64")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--calls", type=int, default=5600)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    bench = Bench(args)
    data = bench.data(args.corpus)
    train, encoder = unlabelled(data, args.requests), bench.model("minilm")
    base = hits(Rabtriever(encoder), data, "test")
    about = {"corpus": args.corpus, "requests": args.requests, "calls": args.calls, "minilm": base.mean()}
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {**about, "rows": {}, "machine": machine()}
    known = read_pairs(bench, train, args.calls)
    for prior, student in (("with", encoder), ("without", WithoutSimilarity(encoder))):
        for loss in LOSSES:
            runs = result["rows"].setdefault(f"{loss}, {prior} prior", [])
            for seed in range(len(runs), args.seeds):
                started = time.perf_counter()
                config = config_of(loss, args.calls, seed)
                retriever = OfKnownPairs(student, bench.teacher("llm"), config).train(train, known)
                seconds = round(time.perf_counter() - started)
                runs.append({**compare(hits(retriever, data, "test"), base), "seconds": seconds})
                RESULT.write_text(json.dumps(result, default=float, indent=1) + "\n")
                print(loss, prior, np.mean([run["R@1"] for run in runs]), seconds, flush=True)


if __name__ == "__main__":
    main()
