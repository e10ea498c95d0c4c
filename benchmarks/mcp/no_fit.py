"""When the gateway says that no tool fits: how often of requests that one serves, and of requests that none does.

    python benchmarks/record.py benchmarks/results/mcp/no_fit.json \
        python benchmarks/mcp/no_fit.py DATA [--model tools]

A corpus's own test requests are served by it. Those of other corpora, and CLINC150's requests out of scope, are not.
The model promises nothing here: it never saw these tools, so that one probability stands for all corpora.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from rabtriever import Rabtriever, load_data
from rabtriever.mcp.vectors import DOUBTFUL

CORPORA = "toolalpaca_eval restbench_spotify k8s_tools apibank callnavi nestful".split()
PROBABILITIES = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05)
MOST = 300  # requests of a corpus


def main() -> None:
    """Prints, of each corpus and probability, the share of requests whose best tool is less probable."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tools")
    args = parser.parse_args()
    retriever = Rabtriever.from_pretrained(args.model)
    corpora = {name: load_data(args.data / name) for name in CORPORA}
    requests = {name: list(data.labelled_queries("test", None).values())[:MOST] for name, data in corpora.items()}
    lines = (args.data / "clinc150" / "no_answer.jsonl").read_text(encoding="utf-8").splitlines()
    outside = [json.loads(line)["text"] for line in lines][:MOST]
    latents = {name: retriever.encode_query(texts) for name, texts in requests.items()}
    latents["out of scope"] = retriever.encode_query(outside)
    report = {"doubtful": DOUBTFUL, "probabilities": PROBABILITIES, "served": {}, "not served": {}}
    for name, data in corpora.items():
        documents = retriever.encode_document([document.content for document in data.documents.values()])
        for kind, of_kind in (("served", [name]), ("not served", [other for other in latents if other != name])):
            queries = np.concatenate([latents[one] for one in of_kind])
            best = retriever.calibration.probability(retriever.similarity(queries, documents).max(axis=1))
            report[kind][name] = [round(float((best < least).mean()), 3) for least in PROBABILITIES]
    for kind in ("served", "not served"):
        report[kind]["mean"] = np.round(np.mean(list(report[kind].values()), axis=0), 3).tolist()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
