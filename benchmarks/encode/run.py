"""The LLM pass: documents, queries and pairs, each backend beside transformers and sentence-transformers, in one run.

Usage: python benchmarks/encode/run.py --data FOLDER_OF_BEIR_FOLDERS [--model models/tools] [--quick] [--json]
           [--out FILE] [--parts floors,documents,queries,rank,fidelity]

Contenders take turns, so that the machine's noise hits all alike; figures are medians of their turns. Texts are
NFCorpus's documents, MetaTool's queries and tools. Needs ``pip install rabtriever[benchmarks]``. Parts that are left
out keep what FILE says of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import OTHERS, OURS, SENTENCES, Contender, states, transformers
from texts import BATCH, sentence_transformer, some_texts

from rabtriever import Rabtriever, load_data
from rabtriever.evaluation import evaluate
from rabtriever.evaluation.lexical import lexical_index
from rabtriever.llm.backbone import token_batches
from rabtriever.llm.torch_engine import PAD_TOKENS_TO, TOKEN_BUDGET

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import machine

CUDA = torch.cuda.is_available()
KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": torch.float32, "backend": "torch"},
    "bfloat16": {"dtype": torch.bfloat16, "backend": "torch"},
    "auto": {},
}
PARTS = ("floors", "documents", "queries", "rank", "fidelity")
Models = Mapping[str, Rabtriever]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="models/tools")
    parser.add_argument("--quick", action="store_true", help="fewer texts and turns, some five minutes")
    parser.add_argument("--json", action="store_true", help="the summary alone, one line")
    parser.add_argument("--out")
    parser.add_argument("--parts", default=",".join(PARTS))
    args = parser.parse_args()
    models = {name: Rabtriever.from_pretrained(args.model, query_cache=0, **options) for name, options in KINDS.items()}
    folder, quick = Path(args.data), args.quick
    data = load_data(str(folder / "metatool"))
    report: dict[str, Any] = {}
    if args.out and Path(args.out).is_file():
        report = json.loads(Path(args.out).read_text(encoding="utf-8"))
    report |= {**machine(), "threads": torch.get_num_threads(), "backend": models["auto"].reranker.llm.loaded.backend}
    ways: dict[str, Callable[[], Any]] = {
        "floors": lambda: floors(models["auto"]),
        "documents": lambda: {
            "nfcorpus": documents(models, args.model, some_texts(folder / "nfcorpus", 20 if quick else 48), quick),
            **({} if quick else {"metatool": documents(models, args.model, list(data.queries.values())[:768], True)}),
        },
        "queries": lambda: queries(models, data, 15 if quick else 60),
        "rank": lambda: rank(models, data, 3 if quick else 5, quick),
        "fidelity": lambda: fidelity(models, folder, data, quick),
    }
    for name in args.parts.split(","):
        started = time.perf_counter()
        report[name] = ways[name]()
        print(f"{name} ({time.perf_counter() - started:.0f} s): {json.dumps(report[name])}", file=sys.stderr)
        if args.out:
            Path(args.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if set(PARTS) <= set(report):
        report["summary"] = summarised(report)
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report.get("summary", {})) if args.json else json.dumps(report, indent=2))


def summarised(report: Mapping[str, Any]) -> dict[str, float]:
    tokens, found = report["documents"]["nfcorpus"]["tokens_per_second"], report["fidelity"]
    latency, ms = report["queries"]["64"], report["rank"]["ms"]
    summary = {
        "docs_vs_hf_fp32": tokens["auto"] / tokens["transformers float32"],
        **({"docs_vs_st_bf16": tokens["auto"] / tokens[SENTENCES]} if SENTENCES in tokens else {}),
        "query64_latency_vs_hf_fp32": latency["auto"]["p50"] / latency["transformers float32"]["p50"],
        "encode_query_overhead_ms": report["queries"]["encode_query_overhead_ms"],
        "rank199_vs_plain": ms["plain bfloat16"] / ms["auto"],
        "pearson": min(found["pearson_reranker"]["auto"], found["pearson_retriever"]["auto"]),
        "r1_loss": found["metatool_r1"]["float32"] - found["metatool_r1"]["auto"],
        "batch_invariance": found["batch_invariance"]["auto"],
    }
    if "nfcorpus_ndcg10" in found:
        summary["ndcg10_loss"] = found["nfcorpus_ndcg10"]["float32"] - found["nfcorpus_ndcg10"]["auto"]
    return {name: float(f"{value:.4g}") for name, value in summary.items()}


def floors(retriever: Rabtriever) -> dict[str, Any]:
    """What the matrix products alone allow: tokens a second at the rate of a product of 2,048^3."""
    size, result = 2048, {}
    linears = [
        m for m in retriever.reranker.llm.loaded.model.get_decoder().layers.modules() if isinstance(m, torch.nn.Linear)
    ]
    weights = sum(linear.weight.numel() for linear in linears)
    device = retriever.reranker.llm.backbone.device
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    low, low_b = a.bfloat16(), b.bfloat16()
    ways: dict[str, Callable[[], Any]] = {"float32": lambda: (a @ b)[0, 0].item()}
    ways["bfloat16"] = lambda: (low @ low_b)[0, 0].item()
    if not CUDA:
        from rabtriever.llm.int8.forward import product
        from rabtriever.llm.int8.gang import run_in_threads
        from rabtriever.llm.int8.weights import pack_layers, quantize_rows

        packed = tuple(pack_layers([quantize_rows(b)], 1))
        codes, threads = np.full((size, size), 128, np.uint8), torch.get_num_threads()
        out, share = np.empty((size, packed[2].shape[1]), np.float32), size // threads
        ways["int8"] = lambda: run_in_threads(
            threads, lambda i: product(codes[i * share :], share, packed, 0, out[i * share :])
        )
    for name, times in take_turns(ways, 15).items():
        rate = 2 * size**3 / statistics.median(times)
        result[name] = {"gflop_per_s": round(rate / 1e9), "tokens_per_s": round(rate / 2 / weights)}
    return {"weights": weights, **result}


def documents(models: Models, model: str, texts: list[str], quick: bool) -> dict[str, Any]:
    """Tokens a second over texts in their own order; each contender counts what it read; peak memory while reading."""
    prompt = models["auto"].reranker.llm.prompt
    started = time.perf_counter()
    ids = prompt.document_ids(texts)
    tokenising = time.perf_counter() - started
    read, longest = sum(map(len, ids)), max(map(len, ids))
    ways: dict[str, Callable[[], Any]] = {
        f"transformers {name}": partial(naive, models[name], ids) for name in ("float32", "bfloat16")
    }
    low, st_tokens = models["bfloat16"].reranker.llm.loaded, 0
    if find_spec("sentence_transformers"):  # not on every GPU machine
        ways[SENTENCES], st_tokens = sentence_transformer(low.model, low.tokenizer, texts, longest)
    ours = ["auto"] if quick else list(models)
    ways |= {name: partial(models[name].reranker.llm.backbone.states, ids, "mean") for name in ours}
    seconds = take_turns(ways, 3)
    counts = {name: st_tokens if name == SENTENCES else read for name in ways}
    result = {
        "texts": len(texts),
        "tokens": read,
        "tokenising_share": round(tokenising / statistics.median(seconds["auto"]), 4),
        "padding": {
            "as they come, 16 a batch": _padding(ids, [range(i, i + BATCH) for i in range(0, len(ids), BATCH)]),
            "torch": _padding(ids, token_batches([len(one) for one in ids], TOKEN_BUDGET), PAD_TOKENS_TO),
            "int8": 0.0,
        },
        "tokens_per_second": {name: round(counts[name] / statistics.median(times)) for name, times in seconds.items()},
    }
    if not quick and not CUDA:
        result["peak_mb"] = {name: peak_memory(name, model, texts) for name in (*list(OTHERS)[:2], SENTENCES, *OURS)}
    return result


def _padding(ids: list[list[int]], batches: Any, unit: int = 1) -> float:
    """The share of a padded batch's tokens that is padding."""
    sizes = [[len(ids[i]) for i in batch if i < len(ids)] for batch in batches]
    padded = sum(len(batch) * -(-max(batch) // unit) * unit for batch in sizes)
    return round(1 - sum(map(sum, sizes)) / padded, 3)


def peak_memory(name: str, model: str, texts: list[str]) -> int:
    contender = Contender(name, model, texts, {})
    peak = contender("documents")[2]
    contender.close()
    return peak


def naive(retriever: Rabtriever, ids: list[list[int]], pooling: str = "mean") -> torch.Tensor:
    return states(partial(transformers, retriever.reranker.llm.loaded.model.get_decoder()), ids, pooling)


def queries(models: Models, data: Any, turns: int) -> dict[str, Any]:
    """Latency of one query of 16, 64 and 256 tokens, milliseconds, and what encode_query adds to the backbone's."""
    words = " ".join(data.queries.values()).split()
    result: dict[str, Any] = {}
    prompt = models["auto"].reranker.llm.prompt
    for size in (16, 64, 256):
        ids = [prompt.query_ids([" ".join(words[:400])], with_bos=True)[0][:size]]
        ways = {f"transformers {name}": partial(naive, models[name], ids) for name in ("float32", "bfloat16")}
        ways |= {name: partial(models[name].reranker.llm.backbone.states, ids, "mean") for name in models}
        times = take_turns(ways, turns)
        result[str(size)] = {name: {"p50": _ms(times[name], 50), "p99": _ms(times[name], 99)} for name in ways}
    text = " ".join(words[:45])
    ids = prompt.query_ids([text], with_bos=True)
    ways = {
        "backbone": lambda: models["auto"].reranker.llm.backbone.states(ids, "mean"),
        "encode_query": lambda: models["auto"].encode_query([text]),
    }
    seconds = take_turns(ways, 4 * turns)
    more = [b - a for a, b in zip(seconds["backbone"], seconds["encode_query"], strict=True)]
    caching = Rabtriever(models["auto"].encoder, models["auto"].predictor)
    again = take_turns({"cached": lambda: caching.encode_query([text])}, 4 * turns)["cached"]
    return {**result, "encode_query_overhead_ms": _ms(more, 50), "known_query_ms": round(_ms(again, 50), 3)}


def rank(models: Models, data: Any, turns: int, quick: bool) -> dict[str, Any]:
    """One query against all tools: whole pairs in padded batches, against cached documents; and tokens of both."""
    tools = [document.content for document in data.documents.values()]
    asked = list(data.labelled_queries("dev", 60).values())
    ways: dict[str, Callable[[], Any]] = {}
    for name in ["bfloat16", "auto"] if quick else models:
        reranker, left = models[name].reranker, asked[: turns + 1]
        ways[name] = lambda reranker=reranker, left=left: reranker.rank(left.pop(), tools)
        if name != "auto":
            ways[f"plain {name}"] = lambda name=name, left=list(left): whole_pairs(models[name], left.pop(), tools)
    ms = {name: _ms(times, 50) for name, times in take_turns(ways, turns).items()}
    result: dict[str, Any] = {"documents": len(tools), "ms": ms, "tokens": {}}
    reranker = models["auto"].reranker
    backbone = reranker.llm.backbone
    chosen = torch.randint(0, 60 * len(tools), (1024,), generator=torch.Generator().manual_seed(0))
    draws = torch.stack([chosen // len(tools), chosen % len(tools)], 1)
    for name, way in {
        "rank, first query": lambda: reranker.log_odds(asked[:1], tools),
        "rank, next query": lambda: reranker.log_odds(asked[1:2], tools),
        "evaluate, 10 queries": lambda: [reranker.log_odds([query], tools) for query in asked[2:12]],
        "distillation, 1,024 pairs": lambda: reranker.score(asked, tools, draws.numpy(), with_states=True),
    }.items():
        if name in ("rank, first query", "distillation, 1,024 pairs"):
            backbone._kv_cache.clear()
        backbone.token_counts.clear()
        way()
        counts = backbone.token_counts
        result["tokens"][name] = {"read": counts["computed"], "whole": counts["without_cache"]}
    return result


def whole_pairs(retriever: Rabtriever, query: str, documents: list[str]) -> torch.Tensor:
    prompt = retriever.reranker.llm.prompt
    segment = prompt.query_ids([query])[0]
    return retriever.reranker.llm.backbone.states([ids + segment for ids in prompt.document_ids(documents)])


def fidelity(models: Models, folder: Path, data: Any, quick: bool) -> dict[str, Any]:
    """What the log-odds and rankings are, against float32's; and what a text's company does to its log-odds."""
    ids, tools = list(data.documents), [document.content for document in data.documents.values()]
    judged = data.labelled_queries("test", 60 if quick else 500)
    right = [data.qrels["test"][query] for query in judged]
    scores, pairs = {}, {}
    some, few = list(judged.values())[: 6 if quick else 12], tools[:60]
    for name, retriever in models.items():
        asked = retriever.encode_query(list(judged.values()))
        scores[name] = retriever.similarity(asked, retriever.encode_document(tools))
        pairs[name] = retriever.reranker.log_odds(some, few)

    def pearson(found: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {name: float(np.corrcoef(found["float32"].ravel(), found[name].ravel())[0, 1]) for name in models}

    def hits(found: np.ndarray) -> float:
        return float(np.mean([ids[i] in wanted for i, wanted in zip(found.argmax(1), right, strict=True)]))

    def invariance(name: str) -> float:
        reranker, (n, k) = models[name].reranker, (3, 8) if quick else (6, 10)
        alone = np.array([[reranker.log_odds([query], [text])[0, 0] for text in few[:k]] for query in some[:n]])
        return float(np.abs(alone - pairs[name][:n, :k]).max())

    result = {
        "queries": len(judged),
        "pairs": len(some) * len(few),
        "metatool_r1": {name: hits(found) for name, found in scores.items()},
        "pearson_retriever": pearson(scores),
        "pearson_reranker": pearson(pairs),
        "batch_invariance": {name: invariance(name) for name in models},
    }
    return result if quick else {**result, **nfcorpus(models, folder)}


def nfcorpus(models: Models, folder: Path) -> dict[str, Any]:
    """nDCG@10 of each backend's reranker over BM25's best ten: a retriever made for tools finds nothing there."""
    data = load_data(str(folder / "nfcorpus"))
    ten = partial(lexical_index(data.documents.values()).search, k=10, mode="bm25", rerank=10)
    report = evaluate(data, {name: partial(ten, reranker=models[name].reranker) for name in models}, "test", 15, 0)
    return {
        "nfcorpus_queries": report["n_queries"],
        "nfcorpus_ndcg10": {name: row["nDCG@10"] for name, row in report["systems"].items()},
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
    return round(1000 * float(np.percentile(seconds, percentile)), 3)


if __name__ == "__main__":
    main()
