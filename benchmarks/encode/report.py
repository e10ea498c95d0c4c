"""Make docs/encode.md from benchmarks/results/encode.

Usage: python benchmarks/encode/report.py      (make results)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import table

ROOT = Path(__file__).parents[2]
RESULTS, DOCS = ROOT / "benchmarks" / "results" / "encode", ROOT / "docs"


def main() -> None:
    run, candidates = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("run", "candidates"))
    floors, found = run["floors"], run.get("fidelity")
    lines = [(DOCS / "encode.head.md").read_text().rstrip(), "", f"{run['machine']}, {run['cores']} cores.", ""]
    if "summary" in run:
        lines += ["## In one line", "", *table(["ratio", "value"], [[f"`{k}`", v] for k, v in run["summary"].items()])]
    lines += [f"## Floors: {floors.pop('weights') / 1e6:.0f} million weights outside the embedding", ""]
    rows = [[name, row["gflop_per_s"], row["tokens_per_s"]] for name, row in floors.items()]
    lines += table(["product of 2,048^3", "GFLOP/s", "tokens/s that it allows"], rows)
    for name, part in run["documents"].items():
        lines += [f"## Documents: {part['texts']} of {name}, {part['tokens']:,} tokens", "", *_documents(part, floors)]
    lines += ["## One query, ms", "", *_queries(run["queries"])]
    lines += [f"## The reranker: a query against {run['rank']['documents']} tools", "", *_rank(run["rank"])]
    if found:
        lines += ["## Agreement", "", *_fidelity(found)]
    lines += ["## Candidates for a backend", "", *_candidates(candidates)]
    if (RESULTS / "encoders.json").is_file():
        lines += [
            "## Sentence-transformers encoders",
            "",
            *_encoders(json.loads((RESULTS / "encoders.json").read_text())),
        ]
    (DOCS / "encode.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print("docs/encode.md", file=sys.stderr)


def _documents(part: dict[str, Any], floors: dict[str, Any]) -> list[str]:
    rows = []
    for name, speed in part["tokens_per_second"].items():
        kind = next((kind for kind in ("float32", "bfloat16") if name.endswith(kind)), "int8")
        share = f"{speed / floors[kind]['tokens_per_s']:.2f}" if kind in floors else ""
        peak = part.get("peak_mb", {}).get({"auto": "int8"}.get(name, name if " " in name else f"torch {name}"), "")
        rows.append([name, f"{speed:,}", share, peak])
    padding = ", ".join(f"{name} {share:.1%}" for name, share in part["padding"].items())
    summary = f"Padding: {padding}. Tokenising takes {part['tokenising_share']:.1%} of the time of `auto`."
    return [*table(["", "tokens/s", "of the floor", "peak memory, MB"], rows), summary, ""]


def _queries(part: dict[str, Any]) -> list[str]:
    sizes = [size for size in part if size.isdigit()]
    rows = [
        [name, *(f"{part[size][name]['p50']:.1f} / {part[size][name]['p99']:.1f}" for size in sizes)]
        for name in part[sizes[0]]
    ]
    more, cached = part["encode_query_overhead_ms"], part["known_query_ms"]
    summary = f"`encode_query` adds {more} ms; a cached query takes {cached} ms."
    return [*table(["p50 / p99", *(f"{size} tokens" for size in sizes)], rows), summary, ""]


def _rank(part: dict[str, Any]) -> list[str]:
    rows = [[name, f"{ms:,.0f}"] for name, ms in part["ms"].items()]
    counts = [
        [name, f"{row['read']:,}", f"{row['whole']:,}", f"{row['whole'] / row['read']:.2f}"]
        for name, row in part["tokens"].items()
    ]
    head = ["", "tokens read", "whole pairs would have been", "ratio"]
    return [*table(["", "ms a query"], rows), *table(head, counts)]


def _fidelity(found: dict[str, Any]) -> list[str]:
    names = list(found["metatool_r1"])
    head = ["", *names]
    rows = [
        [f"MetaTool R@1, retriever, {found['queries']:,} queries", *(f"{found['metatool_r1'][n]:.4f}" for n in names)],
        ["Pearson of the retriever's log-odds", *(f"{found['pearson_retriever'][n]:.4f}" for n in names)],
        [f"and of the reranker's, {found['pairs']:,} pairs", *(f"{found['pearson_reranker'][n]:.4f}" for n in names)],
        ["a pair alone against the same in a batch", *(f"{found['batch_invariance'][n]:.1e}" for n in names)],
    ]
    if "nfcorpus_ndcg10" in found:
        label = f"NFCorpus nDCG@10, reranker over BM25's ten, {found['nfcorpus_queries']} queries"
        rows.insert(1, [label, *(f"{found['nfcorpus_ndcg10'][n]:.4f}" for n in names)])
    return table(head, rows)


def _candidates(report: dict[str, Any]) -> list[str]:
    head = ["", "documents, tokens/s", "16 tokens, ms", "64 tokens, ms", "peak memory, MB"]
    head += ["least cosine", "Pearson of the reranker's log-odds"]
    rows = [[name, *row.values()] for name, row in report["contenders"].items()]
    packages = ", ".join(f"{name} {version}" for name, version in report["packages"].items())
    return [*table(head, rows), f"{report['tokens']:,} tokens of documents, {report['pairs']} pairs; {packages}.", ""]


def _encoders(report: dict[str, Any]) -> list[str]:
    head = ["", "ms a query", "documents, tokens/s", "Spearman, MetaTool", "R@1 MetaTool", "R@1 HWU64"]
    rows: list[list[object]] = []
    for encoder, row in report["encoders"].items():
        for name, ms in row["query_ms"].items():
            label = f"{encoder}, {row['backend']}" if name == "ours" else f"{encoder}, sentence-transformers {name}"
            found = row["agreement"]
            rank = found["metatool"]["spearman"].get(name, "")
            hits = [found[data]["r1"][name] for data in ("metatool", "hwu64")]
            rows.append([label, ms, f"{row['documents_tokens_per_second'][name]:,}", rank, *hits])
    tokens = ", ".join(f"{name} {row['query_tokens']}" for name, row in report["encoders"].items())
    start = ", ".join(f"{name} {row['first_query_cpu_seconds']} s" for name, row in report["encoders"].items())
    return [*table(head, rows), f"Tokens of the query: {tokens}. CPU time to the first query: {start}.", ""]


if __name__ == "__main__":
    main()
