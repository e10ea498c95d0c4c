"""Measure whether a ranking fused with BM25's by reciprocal ranks is better than the retriever's alone.

Usage: python benchmarks/quality/hybrid.py --data BEIR_FOLDERS [--model tools] [--sets NAME ...] [--out FILE]

Each set is indexed in a temporary folder and searched exactly with its test queries (300 at most). ``rrf`` fuses
the first 60 of both rankings (Cormack et al. 2009). ``rrf - retriever`` is the mean difference over the queries and its
standard error. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from record import machine

from rabtriever.data import load_data
from rabtriever.evaluation import measure_queries
from rabtriever.index import Index
from rabtriever.retriever import Rabtriever

SETS = ("metatool", "ultratool", "stabletoolbench", "tldr", "strategyqa_facts", "tau2_banking", "nfcorpus", "scifact")
MODES = {"retriever": "exact", "bm25": "bm25"}
RRF_K = 60  # a document's fused score is the sum of 1 / (RRF_K + rank)
MEASURES = ("R@1", "R@10", "nDCG@10")


def fuse(rankings: tuple[list[str], list[str]]) -> list[str]:
    """Orders ids by their reciprocal ranks in two rankings, ties as in the first."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, 1):
            scores[name] = scores.get(name, 0.0) + 1 / (RRF_K + rank)
    return sorted(scores, key=scores.__getitem__, reverse=True)


def compare(folder: Path, retriever: Rabtriever, limit: int) -> dict[str, Any]:
    """Returns the measures of each system on one data set."""
    data = load_data(folder)
    queries = data.labelled_queries("test", limit)
    started = time.perf_counter()
    index = Index.build(None, retriever, data.documents.values())
    row: dict[str, Any] = {
        "data": data.name,
        "documents": len(index),
        "queries": len(queries),
        "index_s": round(time.perf_counter() - started),
    }
    qrels = {query: data.qrels["test"][query] for query in queries}
    rankings = {
        name: [[hit.id for hit in hits] for hits in index.search(list(queries.values()), k=RRF_K, mode=mode)]
        for name, mode in MODES.items()
    }
    rankings["rrf"] = [fuse(pair) for pair in zip(*rankings.values(), strict=True)]
    values = {}
    for name, found in rankings.items():
        run = {
            query: {identifier: -float(rank) for rank, identifier in enumerate(ids[:10])}
            for query, ids in zip(queries, found, strict=True)
        }
        per_query = measure_queries(qrels, run)
        values[name] = {measure: np.array([per_query[query][measure] for query in queries]) for measure in MEASURES}
        row[name] = {measure: round(float(v.mean()), 4) for measure, v in values[name].items()}
    row["rrf - retriever"] = {}
    for measure in MEASURES:
        difference = values["rrf"][measure] - values["retriever"][measure]
        error = difference.std(ddof=1) / len(difference) ** 0.5
        row["rrf - retriever"][measure] = [round(float(difference.mean()), 4), round(float(error), 4)]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of BEIR folders")
    parser.add_argument("--model", default="tools", help="retriever (default: tools)")
    parser.add_argument("--sets", nargs="+", default=SETS, help="names of BEIR folders")
    parser.add_argument("--limit", type=int, default=300, help="queries of a set, at most (default: 300)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    retriever = Rabtriever.from_pretrained(args.model)
    rows: list[dict[str, Any]] = []
    for name in args.sets:
        rows.append(compare(args.data / name, retriever, args.limit))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            command = f"python benchmarks/quality/hybrid.py --data D --sets {' '.join(row['data'] for row in rows)}"
            record = {"command": command, **machine(), "model": args.model}
            args.out.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
