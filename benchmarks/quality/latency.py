"""Milliseconds of one query alone, encoding included, over MetaTool's 199 documents; systems alternate in blocks.

python benchmarks/record.py benchmarks/results/quality/latency.json python benchmarks/quality/latency.py DATA/metatool \
        [--gemma MODEL] [--mpnet MODEL]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rabtriever import Rabtriever, load_data
from rabtriever.encoders.loading import load_encoder
from rabtriever.evaluation.lexical import lexical_index

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.corpora import batches  # noqa: E402
from quality.systems import reranked  # noqa: E402

QUERIES, BLOCK = 66, 11


def main() -> None:
    """Prints medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--gemma")
    parser.add_argument("--mpnet")
    args = parser.parse_args()
    data = load_data(args.data)
    documents = [document.content for document in data.documents.values()]
    words, tools = lexical_index(data.documents.values()), Rabtriever.from_pretrained("tools")
    latents = tools.encode_document(documents)

    def ours(query: str) -> np.ndarray:
        return tools.similarity(tools.encode_query([query]), latents)

    def zero_shot(name: str) -> Callable[[str], np.ndarray]:
        retriever = Rabtriever(load_encoder(name))
        encoded = retriever.encode_document(documents)
        return lambda query: retriever.similarity(retriever.encode_query([query]), encoded)

    systems: dict[str, Callable[[str], Any]] = {"bm25": lambda query: words.search(query, mode="bm25")}
    systems["minilm"] = zero_shot("minilm")
    systems |= {name: zero_shot(path) for name in ("mpnet", "gemma") if (path := getattr(args, name))}
    systems |= {"tools": ours, "tools-rerank10": lambda query: reranked(tools, documents, [query], ours(query))}
    times: dict[str, list[float]] = {name: [] for name in systems}
    queries = list(data.labelled_queries("test", QUERIES, 0).values())
    for part in batches(queries, BLOCK):
        for name, system in systems.items():
            tools.clear_caches()
            system(part[0])  # the processor's caches hold this system's weights again
            for query in part[1:]:
                started = time.perf_counter()
                system(query)
                times[name].append(1000 * (time.perf_counter() - started))
    ms = {name: round(float(np.median(values)), 2) for name, values in times.items()}
    print(json.dumps({"ms": ms, "n_queries": len(next(iter(times.values()))), "documents": len(documents)}))


if __name__ == "__main__":
    main()
