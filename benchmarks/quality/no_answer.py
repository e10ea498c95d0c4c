"""When nothing fits: requests out of scope told apart, and the promise of ``refuse`` on test queries.

    python benchmarks/record.py benchmarks/results/quality/no_answer.json \
        python benchmarks/quality/no_answer.py DATA WORK [--gemma MODEL]

``WORK`` holds the retrievers that systems.py saved. CLINC150's ``no_answer.jsonl`` has 1,200 requests out of scope.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from rabtriever import Rabtriever, RetrievalData, load_data
from rabtriever.encoders.loading import load_encoder
from rabtriever.errors import InputError

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.corpora import batches  # noqa: E402

CORPORA, SHARE = "metatool clinc150 hwu64 banking77".split(), 0.05


def main() -> None:
    """Prints AUROCs, and of each corpus the share of answerable test queries that is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--gemma")
    args = parser.parse_args()
    clinc150 = load_data(args.data / "clinc150")
    lines = (args.data / "clinc150" / "no_answer.jsonl").read_text(encoding="utf-8").splitlines()
    outside = [json.loads(line)["text"] for line in lines]
    systems = {"minilm": Rabtriever(load_encoder("minilm")), "ours": load(args.work, "ours-labels", "clinc150")}
    systems["tools"] = Rabtriever.from_pretrained("tools")
    if args.gemma:
        systems |= {"gemma": Rabtriever(load_encoder(args.gemma))}
        systems["ours on gemma"] = load(args.work, "ours-gemma-labels", "clinc150")
    report: dict[str, dict[str, dict[str, float]]] = {"out of scope": {}, "promise": {}}
    for name, retriever in systems.items():
        inside, out = (best(retriever, clinc150, texts) for texts in (answerable(clinc150), outside))
        row = {"AUROC": auroc(inside[0], out[0]), "AUROC of the margin": auroc(inside[1], out[1])}
        try:
            limit = retriever.refusal.limit(SHARE)
            row |= {"refused": (inside[0] < limit).mean(), "caught": (out[0] < limit).mean()}
        except InputError:  # an encoder, which promises nothing
            limit = np.quantile(inside[0], SHARE)  # as if the test queries were known
            row["caught at as many refused"] = (out[0] < limit).mean()
        report["out of scope"][name] = rounded(row)
    for name in CORPORA:
        data, retriever = load_data(args.data / name), load(args.work, "ours-labels", name)
        below = best(retriever, data, answerable(data))[0] < retriever.refusal.limit(SHARE)
        row = {"refused": below.mean(), "n_queries": len(below), "held out": retriever.refusal.requests}
        report["promise"][name] = rounded(row)
    print(json.dumps(report))


def load(work: Path, system: str, corpus: str) -> Rabtriever:
    """Returns a retriever that systems.py saved."""
    return Rabtriever.from_pretrained(work / f"{system}-{corpus}")


def answerable(data: RetrievalData) -> list[str]:
    """Returns the test queries, all of which something fits."""
    return list(data.labelled_queries("test").values())


def best(retriever: Rabtriever, data: RetrievalData, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log-odds of first hits and their lead over the second, float (n,)."""
    documents = retriever.encode_document([document.content for document in data.documents.values()])
    parts = [np.sort(retriever.similarity(retriever.encode_query(part), documents), axis=1) for part in batches(texts)]
    found = np.concatenate([part[:, -2:] for part in parts])
    return found[:, 1], found[:, 1] - found[:, 0]


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Returns how often a request that something fits has the higher value; ties count half."""
    below = np.searchsorted(np.sort(outside), inside, "left") + np.searchsorted(np.sort(outside), inside, "right")
    return float(below.mean() / 2 / len(outside))


def rounded(row: dict[str, float]) -> dict[str, float]:
    """Returns the figures with three digits."""
    return {name: round(float(value), 3) for name, value in row.items()}


if __name__ == "__main__":
    main()
