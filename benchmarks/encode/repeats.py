"""Reranking candidates that were reranked before: the documents' keys and values cached, or computed for every query.

Usage: python benchmarks/encode/repeats.py --data FOLDER_OF_BEIR_FOLDERS [--model tools] [--out FILE]

``Index.search(rerank=10)`` over 199 short tools (MetaTool) and over 60 abstracts (SciFact), cache on and off in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from rabtriever import Index, Rabtriever, load_data

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import machine

SETS = {"metatool": 199, "scifact": 60}  # documents of each
WARM, TIMED = 30, 20  # queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="tools")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    retrievers = {
        "cached": Rabtriever.from_pretrained(args.model),
        "not cached": Rabtriever.from_pretrained(args.model, kv_cache_bytes=0),
    }
    report = {**machine(), "rerank": 10, "queries": TIMED, "sets": {}}
    for name, size in SETS.items():
        data = load_data(args.data / name)
        documents, queries = list(data.documents.values())[:size], list(data.queries.values())[: WARM + TIMED]
        indexes = {way: Index.build(None, retriever, documents) for way, retriever in retrievers.items()}
        seconds: dict[str, list[float]] = {way: [] for way in indexes}
        for number, query in enumerate(queries):
            for way, index in indexes.items():
                started = time.perf_counter()
                index.search(query, rerank=10)
                if number >= WARM:
                    seconds[way].append(time.perf_counter() - started)
        ms = {way: round(1000 * statistics.median(times), 1) for way, times in seconds.items()}
        report["sets"][name] = {"documents": size, "ms": ms, "ratio": round(ms["not cached"] / ms["cached"], 2)}
    text = json.dumps(report, indent=2)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
