"""Make docs/scan.md and its figure from benchmarks/results/index.

Usage: python benchmarks/index/report.py      (make results)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import table

ROOT = Path(__file__).parents[2]
RESULTS, DOCS = ROOT / "benchmarks" / "results" / "index", ROOT / "docs"
Row = dict[str, Any]


def main() -> None:
    run, length, mixed = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("run", "length", "mixed"))
    lines = [(DOCS / "scan.head.md").read_text().rstrip(), ""]
    lines += [
        f"{run['machine']}, {run['cores']} cores; {run['real_documents']:,} real documents, the rest copies of them.",
        "",
    ]
    for part in ("scans", "stores", "others"):
        run[part].sort(key=lambda row: row["n"])
    for kind in ("mlp", "quadratic"):
        lines += [f"## Scans, `{kind}`, 128 numbers a document", "", *_scans(run["scans"], kind)]
        lines += [f"## The index, `{kind}`, int8", "", *_stores(run["stores"], kind)]
    lines += ["## The scan of 384 products and 128 ReLUs, int8, 1 thread", "", *_mixed(mixed)]
    lines += ["## Others, in the same run", "", *_others(run["others"])]
    lines += ["## What int8 codes alone would lose", ""]
    names = [name for name in run["int8_loss"][0] if name != "predictor"]
    lines += table(
        ["predictor", "data", "queries", "R@10, float32", "R@10, int8 alone", "of the ten best, the same"],
        [
            [
                loss["predictor"],
                name,
                loss[name]["n_queries"],
                loss[name]["float32"],
                loss[name]["int8"],
                loss[name]["same_ten"],
            ]
            for loss in run["int8_loss"]
            for name in names
        ],
    )
    lines += ["## Time a candidate against the document's length", "", *_lengths(length)]
    (DOCS / "scan.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    _figure(run, length)
    print("docs/scan.md, docs/figures/scan.png", file=sys.stderr)


def _scans(rows: list[Row], kind: str) -> list[str]:
    head = [
        "documents",
        "precision",
        "GB/s read",
        "read",
        "1 thread",
        "2 threads",
        "of 32, each",
        "FAISS",
        "FAISS, of 32, each",
    ]
    body = []
    for row in rows:
        if row["predictor"] == kind:
            peer = next((name for name in row if name.startswith("faiss") and "batch" not in name), None)
            times = [row[key]["p50_ms"] for key in ("read", "1 thread", "2 threads", "batch of 32")]
            theirs = [row[peer]["p50_ms"], row[f"{peer}, batch of 32"]["p50_ms"]] if peer else ["", ""]
            body.append([f"{row['n']:,}", row["precision"], row["read_gb_s"], *(f"{t:.3g}" for t in times), *theirs])
    return table(head, body)


def _stores(rows: list[Row], kind: str) -> list[str]:
    head = ["documents", "exact, p50", "p99", "approximate, p50", "p99", "recall@10", "@100", "add 1,000", "open"]
    head += ["segments made", "disk, bytes a document", "memory", "resident / float32"]
    body = [
        [
            *(
                f"{row['n']:,}",
                row["exact"]["p50_ms"],
                row["exact"]["p99_ms"],
                row["ann"]["p50_ms"],
                row["ann"]["p99_ms"],
            ),
            *(row["ann_recall10"], row["ann_recall100"], f"{row['add1000_s']} s", f"{row['open_s']} s"),
            *(
                f"{row['segments_s']} s",
                round(row["table"] + row["segment"]),
                round(row["memory"]),
                row["rss_vs_latents"],
            ),
        ]
        for row in rows
        if row["predictor"] == kind
    ]
    return table(head, body)


def _mixed(row: Row) -> list[str]:
    names = ["ours", "faiss sq8", "ours, of 32", "faiss sq8, of 32"]
    head = ["documents", *(f"{name}, ms" for name in names), "ours / FAISS", "the ten best by codes alone"]
    times = [f"{row[name]['p50_ms']:.3g}" for name in names]
    return table(head, [[f"{row['n']:,}", *times, row["ratio_to_peer"], f"{row['recall10_of_codes']:.3f}"]])


def _others(rows: list[Row]) -> list[str]:
    head = ["documents", "FAISS HNSW, ms", "its recall@10", "its building", "bm25s, ms", "its building"]
    body = [
        [
            *(f"{row['n']:,}", row["faiss hnsw"]["p50_ms"], row["hnsw_recall10"], f"{row['hnsw_build_s']} s"),
            *(row["bm25s"]["p50_ms"], f"{row['bm25s_build_s']} s"),
        ]
        for row in rows
    ]
    return table(head, body)


def _lengths(record: Row) -> list[str]:
    names = [name for name in record["ms_per_candidate"][0] if name != "tokens"]
    rows = [[row["tokens"], *(f"{row[name]:.3g}" for name in names)] for row in record["ms_per_candidate"]]
    slopes = [["**slope**", *(record["slopes"][name] for name in names)]]
    slopes += [["slope from 128 on", *(record["slopes_from_128_tokens"][name] for name in names)]]
    return table(["tokens", *(f"{name}, ms" for name in names)], rows + slopes)


def _figure(run: Row, length: Row) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    rows = [row for row in run["scans"] if row["predictor"] == "mlp" and row["precision"] == "int8"]
    sizes = [row["n"] for row in rows]
    for name in ("faiss sq8", "1 thread", "read", "batch of 32"):
        left.loglog(sizes, [row[name]["p50_ms"] for row in rows], marker="o", label=name)
    stores = [row for row in run["stores"] if row["predictor"] == "mlp"]
    left.loglog([row["n"] for row in stores], [row["ann"]["p50_ms"] for row in stores], marker="o", label="approximate")
    left.set(xlabel="documents", ylabel="ms a query", title="int8, 128 numbers a document")
    left.legend()
    for name in [name for name in length["ms_per_candidate"][0] if name != "tokens"]:
        tokens = [row["tokens"] for row in length["ms_per_candidate"]]
        right.loglog(tokens, [row[name] for row in length["ms_per_candidate"]], marker="o", label=name)
    right.set(xlabel="tokens of a document", ylabel="ms a candidate", title="Time a candidate")
    right.legend()
    figure.tight_layout()
    figure.savefig(DOCS / "figures" / "scan.png", dpi=90)


if __name__ == "__main__":
    main()
