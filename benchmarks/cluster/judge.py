"""Pairs a second of a reranker that reads documents first: pairs grouped by document against pairs in random order.

python benchmarks/record.py benchmarks/results/cluster/judge.json python benchmarks/cluster/judge.py [--quick]

The model that ships (135 million weights, int8, one thread) reads the built-in task's requests, each with its encoder's
best 8 of 150 documents. Blocks are small, and nothing is cached from one to the next, so that few documents of a block
occur twice by chance: as in blocks of a thousand pairs from a corpus of ten thousand documents.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from rabtriever import load_data, load_reranker
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.evaluation.best_pairs import best_by_encoder
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.rerankers.blocks import make_blocks
from rabtriever.rerankers.generative import GenerativeReranker

DEMO = Path(__file__).parents[2] / "src/rabtriever/demo"
DEPTH, PAIRS_PER_BLOCK = 8, 64


def measure(quick: bool) -> dict[str, float]:
    """Returns pairs a second of both orders, medians over blocks that take turns, and the greatest difference."""
    torch.set_num_threads(1)
    data, loaded = load_data(DEMO), load_reranker("tools", device="cpu", backend="int8").llm
    reranker = GenerativeReranker(PromptedLLM(loaded.loaded, loaded.template, kv_cache_bytes=0))
    queries, documents = list(data.queries.values()), [one.content for one in data.documents.values()]
    encoder = SentenceEncoder.from_pretrained("minilm", device="cpu")
    pairs = best_by_encoder(data, encoder, encoder.encode_documents(documents), list(data.queries), DEPTH)
    shuffled = np.random.default_rng(0).permutation(pairs)
    orders = {
        "grouped": make_blocks(pairs, reranker.group_by, PAIRS_PER_BLOCK),
        "random": [shuffled[i : i + PAIRS_PER_BLOCK] for i in range(0, len(pairs), PAIRS_PER_BLOCK)],
    }
    reranker.score(queries, documents, pairs[:PAIRS_PER_BLOCK])  # compiles
    speeds: dict[str, list[float]] = {name: [] for name in orders}
    scores: dict[str, dict[tuple[int, int], float]] = {name: {} for name in orders}
    for number in range(2 if quick else len(orders["random"])):
        for name, blocks in orders.items():
            if number < len(blocks):
                started = time.perf_counter()
                log_odds = reranker.score(queries, documents, blocks[number]).log_odds
                speeds[name].append(len(log_odds) / (time.perf_counter() - started))
                scores[name].update(zip(map(tuple, blocks[number].tolist()), log_odds.tolist(), strict=True))
    both = scores["grouped"].keys() & scores["random"].keys()
    medians = {name: statistics.median(of) for name, of in speeds.items()}
    return {
        "pairs": sum(map(len, orders["grouped"])),
        "pairs_per_document": round(len(pairs) / len(np.unique(pairs[:, 1])), 1),
        **{f"documents_per_block_{name}": round(documents_per_block(blocks), 1) for name, blocks in orders.items()},
        "grouped_pairs_per_second": round(medians["grouped"], 1),
        "random_pairs_per_second": round(medians["random"], 1),
        "speedup": round(medians["grouped"] / medians["random"], 2),
        "max_log_odds_diff": max(abs(scores["grouped"][pair] - scores["random"][pair]) for pair in both)
        if both
        else 0.0,
    }


def documents_per_block(blocks: list[np.ndarray]) -> float:
    return statistics.mean(len(np.unique(block[:, 1])) for block in blocks)


if __name__ == "__main__":
    print(json.dumps(measure("--quick" in sys.argv)))
