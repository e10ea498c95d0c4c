"""Time per candidate against the document's length: the reranker, with and without cached documents, the retriever.

Usage: python benchmarks/index/length.py [--model tools] [--repeats 3] [--out FILE]

The last line is JSON: milliseconds a candidate for 16 to 2,048 tokens, and the slope of log time over log length.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from index.scans import live_mask
from record import machine

from rabtriever import Rabtriever
from rabtriever.index.quantization import QuantizedLatents
from rabtriever.index.scan import scan
from rabtriever.scoring.fold import Fold

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
TOKENS_PER_BATCH = 4096
CANDIDATES = 100_000  # of the retriever's scan: copies of the documents
QUERY_TOKENS = 16


@torch.inference_mode()
def measure(retriever: Rabtriever, documents: list[list[int]], query_ids: list[int], repeats: int) -> dict[str, float]:
    """Returns seconds a candidate, taken by turns."""
    backbone = retriever.reranker.llm.backbone
    fold = Fold(retriever.encoder.hidden_size, retriever.predictor.fold())
    query = fold.query(backbone.states([query_ids], retriever.encoder.pooling).numpy())
    real = fold.document(backbone.states(documents, retriever.encoder.pooling).numpy())
    latents = np.resize(real, (CANDIDATES, len(query[0])))
    latents[:, :-2] += 0.1 * np.random.default_rng(0).standard_normal(latents[:, :-2].shape, np.float32)
    codes, live = QuantizedLatents.encode(latents, fold.layout, "int8"), live_mask(CANDIDATES)
    engine, n = backbone.engine, len(documents)
    cache, rows = engine.prefill(documents), torch.arange(n)
    ways: dict[str, tuple[Callable[[], Any], int, int]] = {
        "reranker": (lambda: backbone.states([ids + query_ids for ids in documents]), n, 1),
        "reranker, cached documents": (lambda: engine.encode_with_prefix(cache, rows, [query_ids] * n), n, 1),
        "retriever": (lambda: scan(query, codes, latents, live, 10), CANDIDATES, 20),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, (way, candidates, times) in ways.items():
            for _ in range(times):
                started = time.perf_counter()
                way()
                if turn:  # the first is to warm up
                    seconds[name].append((time.perf_counter() - started) / candidates)
    return {name: median(found) for name, found in seconds.items()}


def fit_slopes(rows: list[dict[str, float]]) -> dict[str, float]:
    """Returns the slope of log time over log length."""
    logs = np.log([list(row.values()) for row in rows])
    return {name: round(float(np.polyfit(logs[:, 0], logs[:, i], 1)[0]), 3) for i, name in enumerate(rows[0]) if i}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tools")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    retriever = Rabtriever.from_pretrained(args.model)
    words = np.random.default_rng(0)
    query_ids = words.integers(1000, 20_000, QUERY_TOKENS).tolist()
    rows = []
    for length in LENGTHS:
        documents = words.integers(1000, 20_000, (max(1, TOKENS_PER_BATCH // length), length)).tolist()
        seconds = measure(retriever, documents, query_ids, args.repeats)
        rows.append({"tokens": length, **{name: float(f"{1e3 * value:.4g}") for name, value in seconds.items()}})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    slopes = fit_slopes(rows)
    record = {
        "command": "python benchmarks/index/length.py",
        **machine(),
        "threads": torch.get_num_threads(),
        "dtype": str(retriever.reranker.llm.loaded.model.dtype),
        "query_tokens": QUERY_TOKENS,
        "ms_per_candidate": rows,
        "slopes": slopes,
        "slopes_from_128_tokens": fit_slopes(rows[3:]),
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(slopes))


if __name__ == "__main__":
    main()
