"""The LLM pass: documents, queries and pairs, each backend beside transformers and sentence-transformers, in one run.

Usage: python benchmarks/encode/run.py --data FOLDER_OF_BEIR_FOLDERS [--model models/tools] [--quick] [--json] [--out FILE]

Contenders take turns, so that the machine's noise hits all alike; figures are medians of their turns. Texts are
NFCorpus's documents, MetaTool's queries and tools. Needs ``pip install rabtriever[benchmarks]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from texts import naive_states, sentence_transformer, some_texts

from rabtriever import Rabtriever, load_data
from rabtriever.llm.int8.forward import _product
from rabtriever.llm.int8.weights import _rounded, stack
from rabtriever.llm.int8.workers import together

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import machine

KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": torch.float32, "backend": "torch"},
    "bfloat16": {"dtype": torch.bfloat16, "backend": "torch"},
    "auto": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="models/tools")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out")
    args = parser.parse_args()
    models = {name: Rabtriever.from_pretrained(args.model, query_cache=0, **options) for name, options in KINDS.items()}
    data = load_data(str(Path(args.data) / "metatool"))
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "backend": models["auto"].teacher.llm.backend}
    for name, part in (
        ("floors", lambda: floors(models["auto"])),
        ("documents", lambda: documents(models, Path(args.data) / "nfcorpus", 48 if args.quick else 192)),
        ("queries", lambda: queries(models, data, 15 if args.quick else 60)),
        ("rank", lambda: rank(models, data, 3 if args.quick else 9)),
        ("fidelity", lambda: fidelity(models, data, 60 if args.quick else 500, 6 if args.quick else 20)),
    ):
        started = time.perf_counter()
        report[name] = part()
        print(f"{name} ({time.perf_counter() - started:.0f} s): {json.dumps(report[name])}", file=sys.stderr)
    report["summary"] = summary = summarised(report)
    if args.out:
        Path(args.out).write_text(json.dumps({**machine(), **report}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary) if args.json else json.dumps(report, indent=2))


def summarised(report: Mapping[str, Any]) -> dict[str, float]:
    tokens, found = report["documents"]["tokens_per_second"], report["fidelity"]
    latency = report["queries"]["64"]
    return {
        "docs_vs_hf_fp32": tokens["auto"] / tokens["transformers_float32"],
        "docs_vs_st_bf16": tokens["auto"] / tokens["sentence_transformers_bfloat16"],
        "query64_latency_vs_hf_fp32": latency["auto"]["p50"] / latency["transformers_float32"]["p50"],
        "encode_query_overhead_ms": report["queries"]["encode_query_overhead_ms"],
        "rank199_vs_plain": report["rank"]["ms"]["plain_bfloat16"] / report["rank"]["ms"]["auto"],
        "pearson": min(found["pearson_reranker"], found["pearson_retriever"]),
        "r1_loss": found["r1_float32"] - found["r1_auto"],
        "batch_invariance": found["batch_invariance"]["auto"],
    }


def floors(retriever: Rabtriever) -> dict[str, Any]:
    """What the matrix products alone allow: tokens a second at the rate of a product of 2,048^3."""
    size, result = 2048, {}
    weights = sum(
        linear.weight.numel()
        for linear in retriever.teacher.llm.model.get_decoder().layers.modules()
        if isinstance(linear, torch.nn.Linear)
    )
    a, b = torch.randn(size, size), torch.randn(size, size)
    packed = tuple(stack([_rounded(b)]))
    codes, threads = np.full((size, size), 128, np.uint8), torch.get_num_threads()
    out = np.empty((size, packed[2].shape[1]), np.float32)
    share = size // threads

    def bytes_() -> None:
        together(threads, lambda i: _product(codes[i * share :], share, packed, 0, out[i * share :]))

    low, low_b = a.bfloat16(), b.bfloat16()
    seconds = take_turns({"float32": lambda: a @ b, "bfloat16": lambda: low @ low_b, "int8": bytes_}, 7)
    for name, times in seconds.items():
        rate = 2 * size**3 / statistics.median(times)
        result[name] = {"gflop_per_s": round(rate / 1e9), "tokens_per_s": round(rate / 2 / weights)}
    return {"weights": weights, **result}


def documents(models: Mapping[str, Rabtriever], folder: Path, count: int) -> dict[str, Any]:
    """Tokens a second over a sample of a corpus, in its own order; each contender counts what it read."""
    texts = some_texts(folder, count)
    prompt = models["auto"].teacher.prompt
    ids = prompt.document_ids(texts)
    read = sum(map(len, ids))
    low = models["bfloat16"].teacher.llm
    st, st_tokens = sentence_transformer(low.model, low.tokenizer, texts, max(map(len, ids)))
    ways: dict[str, Callable[[], Any]] = {
        f"transformers_{name}": lambda name=name: naive_states(models[name].teacher.llm.model, ids)
        for name in ("float32", "bfloat16")
    }
    ways["sentence_transformers_bfloat16"] = st
    ways |= {name: lambda name=name: models[name].teacher.backbone.states(ids, "mean") for name in models}
    seconds = take_turns(ways, 3)
    counts = {name: st_tokens if name.startswith("sentence") else read for name in ways}
    padded = sum(len(block) * max(map(len, block)) for block in (ids[i : i + 16] for i in range(0, len(ids), 16)))
    return {
        "texts": count,
        "tokens": read,
        "padding_of_batches_of_16": round(1 - read / padded, 3),
        "tokens_per_second": {name: round(counts[name] / statistics.median(times)) for name, times in seconds.items()},
    }


def queries(models: Mapping[str, Rabtriever], data: Any, turns: int) -> dict[str, Any]:
    """Latency of one query of 16, 64 and 256 tokens, milliseconds, and what encode_query adds to the backbone's."""
    words = " ".join(data.queries.values()).split()
    result: dict[str, Any] = {}
    prompt = models["auto"].teacher.prompt
    for size in (16, 64, 256):
        ids = prompt.query_ids([" ".join(words[:400])], alone=True)[0][:size]
        ways = {
            f"transformers_{name}": lambda name=name, ids=ids: naive_states(models[name].teacher.llm.model, [ids])
            for name in ("float32", "bfloat16")
        }
        ways |= {
            name: lambda name=name, ids=ids: models[name].teacher.backbone.states([ids], "mean") for name in models
        }
        result[str(size)] = {
            name: {"p50": _ms(times, 50), "p99": _ms(times, 99)} for name, times in take_turns(ways, turns).items()
        }
    text = " ".join(words[:45])
    ids = prompt.query_ids([text], alone=True)
    ways = {
        "backbone": lambda: models["auto"].teacher.backbone.states(ids, "mean"),
        "encode_query": lambda: models["auto"].encode_query([text]),
    }
    seconds = take_turns(ways, 4 * turns)
    more = [b - a for a, b in zip(seconds["backbone"], seconds["encode_query"], strict=True)]
    return {**result, "encode_query_overhead_ms": _ms(more, 50)}


def rank(models: Mapping[str, Rabtriever], data: Any, turns: int) -> dict[str, Any]:
    """One query against all tools: whole pairs in padded batches, against cached documents."""
    tools = [document.content for document in data.documents.values()]
    asked = list(data.judged("dev", turns + 2).values())
    pairs: dict[str, list[str]] = {}
    ways: dict[str, Callable[[], Any]] = {}
    for name, retriever in models.items():
        pairs[name] = list(asked)
        teacher, prompt = retriever.teacher, retriever.teacher.prompt
        read = prompt.document_ids(tools)
        ways[name] = lambda teacher=teacher, left=pairs[name]: teacher.rank(left.pop(), tools)
        pairs[f"plain_{name}"] = list(asked)
        ways[f"plain_{name}"] = lambda teacher=teacher, read=read, prompt=prompt, left=pairs[f"plain_{name}"]: (
            lambda query: teacher.backbone.states([ids + query for ids in read])
        )(prompt.query_ids([left.pop()])[0])
    prompt = models["auto"].teacher.prompt
    segments = [len(ids) for ids in prompt.query_ids(asked[1:-1])]
    whole = sum(map(len, prompt.document_ids(tools)))
    return {
        "documents": len(tools),
        "ms": {name: _ms(times, 50) for name, times in take_turns(ways, turns).items()},
        "tokens_of_pairs": round(whole + len(tools) * statistics.mean(segments)),
        "tokens_computed": round(len(tools) * statistics.mean(segments)),
    }


def fidelity(models: Mapping[str, Rabtriever], data: Any, count: int, asked: int) -> dict[str, Any]:
    """What the log-odds and the first hits of the default backend are, against float32's."""
    ids, tools = list(data.documents), [document.content for document in data.documents.values()]
    judged = data.judged("test", count)
    right = [data.qrels["test"][query] for query in judged]
    scores, pairs = {}, {}
    some, few = list(judged.values())[:asked], tools[:60]
    for name, retriever in models.items():
        scores[name] = retriever.similarity(
            retriever.encode_query(list(judged.values())), retriever.encode_document(tools)
        )
        pairs[name] = retriever.teacher.log_odds(some, few)

    def hits(name: str) -> float:
        return float(np.mean([ids[i] in found for i, found in zip(scores[name].argmax(1), right, strict=True)]))

    def pearson(found: Mapping[str, np.ndarray], name: str) -> float:
        return float(np.corrcoef(found["float32"].ravel(), found[name].ravel())[0, 1])

    def invariance(name: str) -> float:
        teacher = models[name].teacher
        alone = np.array([[teacher.log_odds([query], [text])[0, 0] for text in few[:8]] for query in some[:3]])
        return float(np.abs(alone - pairs[name][:3, :8]).max())

    return {
        "queries": len(judged),
        "pairs": len(some) * len(few),
        **{f"r1_{name}": hits(name) for name in models},
        "pearson_retriever": pearson(scores, "auto"),
        "pearson_reranker": pearson(pairs, "auto"),
        "pearson_retriever_bfloat16": pearson(scores, "bfloat16"),
        "pearson_reranker_bfloat16": pearson(pairs, "bfloat16"),
        "batch_invariance": {name: invariance(name) for name in models},
    }


def take_turns(ways: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Seconds of each, ``turns`` times after a first one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _ms(seconds: list[float], percentile: int) -> float:
    return round(1000 * float(np.percentile(seconds, percentile)), 2)


if __name__ == "__main__":
    main()
