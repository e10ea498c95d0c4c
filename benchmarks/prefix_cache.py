"""What it saves that documents come first: ranking with kept document caches against reading every pair whole.

Usage: python benchmarks/prefix_cache.py [--data BEIR_FOLDER] [--model models/tools] [--queries 5]
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.resources import files
from statistics import median

import numpy as np
import torch

from rabtriever import GenerativeReranker, load_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(files("rabtriever") / "demo"))
    parser.add_argument("--model", default="models/tools")
    parser.add_argument("--queries", type=int, default=5)
    args = parser.parse_args()
    data = load_data(args.data)
    reranker = GenerativeReranker.from_pretrained(args.model)
    documents = [document.content for document in data.documents.values()]
    queries = list(data.judged("test", args.queries).values())
    prompt, backbone = reranker.prompt, reranker.backbone
    read = prompt.document_ids(documents)
    whole_tokens = sum(len(ids) + len(prompt.query_ids([query])[0]) for query in queries for ids in read)
    cached_tokens = sum(map(len, read)) + sum(len(read) * len(prompt.query_ids([query])[0]) for query in queries)

    def whole(query: str) -> np.ndarray:
        asked = prompt.query_ids([query])[0]
        return (backbone.states([ids + asked for ids in read]) @ reranker.w).numpy()

    def cached(query: str) -> np.ndarray:
        return reranker.log_odds([query], documents)[0]

    ways = {"first_query_with_cache": cached, "whole_pairs": whole, "cached_documents": cached}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    differences = []
    cached(queries[0]), whole(queries[0])  # warm-up
    for query in queries:
        reranker.backbone._kept = {}
        scores = {}
        for name, way in ways.items():  # alternating, so that noise of the machine hits all alike
            started = time.perf_counter()
            scores[name] = way(query)
            seconds[name].append(time.perf_counter() - started)
        differences.append(float(np.abs(scores["whole_pairs"] - scores["cached_documents"]).max()))
    report = {
        "documents": len(documents),
        "queries": len(queries),
        "ms_per_query": {name: round(1000 * median(times), 1) for name, times in seconds.items()},
        "tokens": {"whole_pairs": whole_tokens, "cached_documents": cached_tokens},
        "speedup": round(median(seconds["whole_pairs"]) / median(seconds["cached_documents"]), 2),
        "largest_difference_in_log_odds": max(differences),
        "dtype": str(reranker.llm.model.dtype),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
