"""What the probability of the first hit is worth: its calibration error by ten bins of as many queries.

    python benchmarks/record.py RESULT.json python benchmarks/quality/first_hit.py MODEL BEIR_FOLDER [BEIR_FOLDER ...]

``{}`` in MODEL stands for the corpus, as in WORK/ours-labels-{}.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from rabtriever import Rabtriever, load_data
from rabtriever.scoring.calibration import LIST_DEPTH

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.systems import FUSED, reranked  # noqa: E402

BINS, QUERIES = 10, 600


def main() -> None:
    """Prints, of each corpus, mean probability, share of right first hits, and the error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--rerank", action="store_true", help="the ten best, reranked")
    args, report = parser.parse_args(), {}
    for folder in args.folders:
        data = load_data(folder)
        retriever = Rabtriever.from_pretrained(args.model.format(data.name))
        positives, ids = data.positives("test", QUERIES), list(data.documents)
        texts, queries = [one.content for one in data.documents.values()], [data.queries[q] for q in positives]
        scores = retriever.similarity(retriever.encode_query(queries), retriever.encode_document(texts))
        calibration = retriever.calibration
        if args.rerank:
            scores, calibration = reranked(retriever, texts, queries, scores), retriever.reranked_calibration
            scores = np.where(scores > FUSED / 2, scores - FUSED, -np.inf)
        best = scores.argmax(1)
        probability = calibration.list_probability(np.sort(scores, axis=1)[:, -LIST_DEPTH:]).max(1)
        right = np.array([ids[d] in relevant for d, relevant in zip(best, positives.values(), strict=True)])
        parts = np.array_split(np.argsort(probability), BINS)
        error = sum(len(part) * abs(probability[part].mean() - right[part].mean()) for part in parts) / len(right)
        figures = {"mean_probability": probability.mean(), "right": right.mean(), "calibration_error": error}
        report[data.name] = {name: round(float(value), 3) for name, value in figures.items()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
