"""When the gateway says that no tool fits: how often of requests that one serves, and of requests that none does.

    python benchmarks/record.py benchmarks/results/mcp/no_fit.json \
        python benchmarks/mcp/no_fit.py DATA [--model tools]

A corpus's own test requests are served by it. Those of other corpora, and CLINC150's requests out of scope, are not.
The model promises nothing here: it never saw these tools, so the same two probabilities stand for all corpora.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from rabtriever import Rabtriever, load_data
from rabtriever.index.hits import Hit
from rabtriever.mcp.vectors import DOUBTFUL, DOUBTFUL_IN_LIST, fitting
from rabtriever.scoring.calibration import LIST_DEPTH

CORPORA = "toolalpaca_eval restbench_spotify k8s_tools apibank callnavi nestful".split()
MOST = 300  # requests of a corpus


def main() -> None:
    """Prints, of each corpus, the share of requests that are told that no tool fits."""
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
    fits, calibration = fitting(retriever, 0.05), retriever.calibration
    rules = {
        "as served": lambda log_odds, alone, listed: not fits(Hit("", listed, log_odds, "", {})),
        f"by itself below {DOUBTFUL}": lambda log_odds, alone, listed: alone < DOUBTFUL,
        f"in its list below {DOUBTFUL_IN_LIST}": lambda log_odds, alone, listed: listed < DOUBTFUL_IN_LIST,
    }
    report: dict[str, dict[str, dict[str, float]]] = {rule: {"served": {}, "not served": {}} for rule in rules}
    for name, data in corpora.items():
        documents = retriever.encode_document([document.content for document in data.documents.values()])
        for kind, of_kind in (("served", [name]), ("not served", [other for other in latents if other != name])):
            queries = np.concatenate([latents[one] for one in of_kind])
            lists = -np.sort(-retriever.similarity(queries, documents), axis=1)[:, :LIST_DEPTH]
            best = lists[:, 0], calibration.probability(lists[:, 0]), calibration.list_probability(lists)[:, 0]
            for rule, refuses in rules.items():
                refused = [refuses(*map(float, one)) for one in zip(*best, strict=True)]
                report[rule][kind][name] = round(float(np.mean(refused)), 3)
    for of_rule in report.values():
        for shares in of_rule.values():
            shares["mean"] = round(float(np.mean(list(shares.values()))), 3)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
