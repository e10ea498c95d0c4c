"""Sentence-transformers encoders: ours beside sentence-transformers itself, in one run.

Usage: python benchmarks/encode/encoders.py --data FOLDER_OF_BEIR_FOLDERS [--encoder NAME ...] [--quick] [--out FILE]

An encoder is ``minilm``, ``mpnet``, a hub id or a folder; one that cannot be loaded is left out, with a line. Rivals
take turns, with all cores each; figures are medians. Agreement is with sentence-transformers in float32: Spearman's
correlation of the scores of MetaTool's queries and tools, and R@1 on MetaTool and HWU64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from rabtriever import load_data
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import InputError
from rabtriever.threads import available_cores

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import machine

QUERY_TOKENS = 27
SETS = ("metatool", "hwu64")
FIRST_QUERY = """
import sys, time
from rabtriever.encoders.sentence import SentenceEncoder
SentenceEncoder.from_pretrained(sys.argv[1], local_files_only=True).encode_queries(["what is the weather like?"])
print(time.process_time())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", action="append", help="may be repeated; minilm by default")
    parser.add_argument("--quick", action="store_true", help="fewer texts and turns")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(available_cores())
    report: dict[str, Any] = {**machine(), "threads": torch.get_num_threads(), "encoders": {}}
    for name in args.encoder or ["minilm"]:
        try:
            ours = SentenceEncoder.from_pretrained(name, device="cpu")
        except InputError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        report["encoders"][Path(name).name] = measure(ours, args.data, args.quick)
    text = json.dumps(report, indent=2)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def measure(ours: SentenceEncoder, folder: Path, quick: bool) -> dict[str, Any]:
    data = load_data(folder / SETS[0])
    queries, tools = list(data.queries.values()), [document.content for document in data.documents.values()]
    sizes = [len(ids) for ids in ours.tokenizers["query"].ids(queries[:2000])]
    query = queries[int(np.abs(np.array(sizes) - QUERY_TOKENS).argmin())]
    texts = tools[:32] if quick else tools
    rivals = {kind: SentenceTransformer(str(ours.model.folder), device="cpu") for kind in ("float32", "bfloat16")}
    rivals["bfloat16"].bfloat16()
    prompts = ours.model.prompts

    def rival(kind: str, texts: list[str], side: str) -> np.ndarray:
        options = {"prompt": prompts[side], "normalize_embeddings": ours.model.normalized, "show_progress_bar": False}
        found: np.ndarray = rivals[kind].encode(texts, batch_size=32, **options)
        return found

    ways = {"ours": lambda: ours.encode_queries([query])}
    ways |= {kind: lambda kind=kind: rival(kind, [query], "query") for kind in rivals}
    alone = take_turns(ways, 20 if quick else 200)
    ways = {"ours": lambda: ours.encode_documents(texts)}
    ways |= {kind: lambda kind=kind: rival(kind, texts, "document") for kind in rivals}
    together = take_turns(ways, 2 if quick else 5)
    n_tokens = sum(map(len, ours.tokenizers["document"].ids(texts)))
    ms = {name: round(1000 * statistics.median(seconds), 2) for name, seconds in alone.items()}
    speed = {name: round(n_tokens / statistics.median(seconds)) for name, seconds in together.items()}
    return {
        "backend": ours.backend,
        "query_tokens": sizes[queries.index(query)],
        "query_ms": ms,
        "query_ratio": {kind: round(ms["ours"] / ms[kind], 3) for kind in rivals},
        "document_tokens": n_tokens,
        "documents_tokens_per_second": speed,
        "documents_ratio": {kind: round(speed["ours"] / speed[kind], 2) for kind in rivals},
        "first_query_cpu_seconds": first_query(ours),
        "agreement": {name: agreement(ours, rival, folder / name, 100 if quick else 600) for name in SETS},
    }


def first_query(ours: SentenceEncoder) -> float:
    """CPU time from the start of Python to a query's embedding, everything cached on disk."""
    command = [sys.executable, "-c", FIRST_QUERY, ours.model.source]
    return round(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout), 2)


def agreement(ours: SentenceEncoder, rival: Callable[..., np.ndarray], folder: Path, count: int) -> dict[str, Any]:
    data = load_data(folder)
    ids, documents = list(data.documents), [document.content for document in data.documents.values()]
    judged = data.labelled_queries("test", count)
    queries, right = list(judged.values()), [data.qrels["test"][query] for query in judged]
    scores = {"ours": ours.encode_queries(queries) @ ours.encode_documents(documents).T}
    for kind in ("float32", "bfloat16"):
        scores[kind] = rival(kind, queries, "query").astype(np.float32) @ rival(kind, documents, "document").T
    hits = {
        name: round(float(np.mean([ids[i] in wanted for i, wanted in zip(found.argmax(1), right, strict=True)])), 4)
        for name, found in scores.items()
    }
    exact = scores.pop("float32")
    rank = {name: round(float(spearmanr(exact.ravel(), found.ravel())[0]), 5) for name, found in scores.items()}
    return {"queries": len(queries), "documents": len(ids), "spearman": rank, "r1": hits}


def take_turns(ways: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Seconds of each, ``turns`` times after three that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 3):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn >= 3:
                seconds[name].append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
