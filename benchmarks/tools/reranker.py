"""The reranker that ships, trained further on the labels of many corpora: an experiment that does not ship.

450 steps (75 minutes on one core) leave R@1 at .63 over the 199 tools of MetaTool, 100 queries
(results/training/reranker_wide.json); 500 more on MetaTool's labels alone (100 minutes) find .72
(results/training/reranker_metatool.json), and another 240 (45 minutes) .75 (.../reranker_metatool_further.json).

    python benchmarks/tools/reranker.py BEIR_FOLDERS MODEL OUT [--steps 700] [--metatool]

MODEL is the reranker of the first trainings, with ``--metatool`` that of the run before; an interrupted run goes on.
At most 8 train queries of a document and 1,500 of a corpus are read, of MetaTool 32 and 6,000, or with ``--metatool``
all: it is measured alone there. Not seen are the documents that ``held_docs.txt`` names, and the corpora that figures
are given for as never trained on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rabtriever import concatenate
from rabtriever.training.config import RerankerTrainingConfig
from rabtriever.training.train_reranker import train_reranker

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools.encoder import TRAINED, train_only  # noqa: E402


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--metatool", action="store_true", help="train on MetaTool alone, with more hard negatives")
    args = parser.parse_args()
    metatool = [train_only(args.data / "metatool")]
    if args.metatool:
        harder = {"learning_rate": 4e-4, "hard_negative_share": 0.85}
        config = RerankerTrainingConfig(steps=args.steps, checkpoint_every=25, **harder)
        train_reranker(concatenate([concatenate(metatool, 16_000, 0, 400)]), args.out, args.model, config=config)
        return
    others = concatenate([train_only(args.data / name) for name in TRAINED.split()[1:]], 1500, 0, 8)
    data = concatenate([concatenate(metatool, 6000, 0, 32), others])
    config = RerankerTrainingConfig(steps=args.steps, learning_rate=3e-4, checkpoint_every=25)
    train_reranker(data, args.out, args.model, config=config)


if __name__ == "__main__":
    main()
