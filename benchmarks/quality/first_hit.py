"""What the probability of the first hit is worth: its calibration error by ten bins of as many queries.

    python benchmarks/record.py RESULT.json python benchmarks/quality/first_hit.py MODEL BEIR_FOLDER [BEIR_FOLDER ...]

``{}`` in MODEL stands for the corpus, as in WORK/ours-labels-{}.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from rabtriever import Rabtriever, load_data

BINS, QUERIES = 10, 600


def main() -> None:
    """Prints, of each corpus, mean probability, share of right first hits, and the error."""
    report = {}
    for folder in sys.argv[2:]:
        data = load_data(folder)
        retriever = Rabtriever.from_pretrained(sys.argv[1].format(data.name))
        positives, ids = data.positives("test", QUERIES), list(data.documents)
        documents = retriever.encode_document([document.content for document in data.documents.values()])
        scores = retriever.similarity(retriever.encode_query([data.queries[q] for q in positives]), documents)
        probability = retriever.calibration.list_probability(scores).max(1)
        best = scores.argmax(1)
        right = np.array([ids[d] in relevant for d, relevant in zip(best, positives.values(), strict=True)])
        parts = np.array_split(np.argsort(probability), BINS)
        error = sum(len(part) * abs(probability[part].mean() - right[part].mean()) for part in parts) / len(right)
        figures = {"mean_probability": probability.mean(), "right": right.mean(), "calibration_error": error}
        report[data.name] = {name: round(float(value), 3) for name, value in figures.items()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
