"""Make docs/scale.md from benchmarks/results/cluster.

Usage: python benchmarks/cluster/report.py      (make results)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import table

ROOT = Path(__file__).parents[2]
RESULTS, DOCS = ROOT / "benchmarks" / "results" / "cluster", ROOT / "docs"
SIZES = (10**8, 10**9)
CORES, SHARD_GB = 64, 64.0  # of one machine that serves or encodes, in the extrapolations
ASSUMPTIONS = (
    "Each figure is a constant above times a number of documents: nothing of this size was run here. Hours are "
    "documents / (documents a second and core x cores), as if every core were worth one of these and storage kept up. "
    "Memory is what a scan reads. An exact search is taken to read a shard as fast a document as above; an approximate "
    "one of 130 columns to grow with the shard as it does from 10^6 to 10^7 documents ([figures](scan.md)); both on a "
    "machine like this one, one query at a time; replicas multiply the queries a second."
)
PAGE = DOCS / "scale.md"
Row = dict[str, Any]


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print("docs/scale.md", file=sys.stderr)


def page() -> str:
    """Returns the page that the result files make."""
    scale, fanout, run = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("scale", "fanout", "run"))
    larger = json.loads((RESULTS.parent / "index" / "run.json").read_text())["stores"]
    ann = {row["n"]: row["ann"]["p50_ms"] for row in larger if row["predictor"] == "mlp"}
    lines = [(DOCS / "scale.head.md").read_text().rstrip(), ""]
    lines += ["## Measured here", "", f"{run['machine']}, {run['cores']} cores; `{run['command']}`.", ""]
    lines += table(["what", "figure", "bar"], [[name, value, bar] for name, value, bar in _run(run["result"])])
    lines += ["## What a document costs", "", f"{scale['machine']}, {scale['cores_used']} cores.", ""]
    lines += table(
        ["encoder", "backend", "tokens", "documents a second and core"], [_encoder(r) for r in scale["encoding"]]
    )
    lines += [f"Bytes a document, and milliseconds a query over {scale['documents']:,} documents:", ""]
    lines += table(
        ["latent", "columns", "scan", "table", "segments on disk", "memory", "exact", "approximate"],
        [_store(row) for row in scale["stores"]],
    )
    lines += ["## What 10^8 and 10^9 documents would cost: extrapolated", "", ASSUMPTIONS, ""]
    lines += table(
        ["encoder", "documents", f"hours on {CORES} cores", f"machines of {CORES} cores for a day"],
        [_hours(row, n) for row in scale["encoding"] for n in SIZES],
    )
    lines += table(
        [
            "latent",
            "scan",
            "documents",
            "table, TB",
            "memory, GB",
            f"shards of {SHARD_GB:.0f} GB",
            "exact, ms",
            "queries a second",
            "approximate, ms",
            "queries a second",
        ],
        [
            _shards(row, n, scale["documents"], ann)
            for row in scale["stores"]
            if row["precision"] != "float16"
            for n in SIZES
        ],
    )
    lines += ["## How long a query waits for its slowest shard: simulated", ""]
    drawn = f"each shard's time drawn from {fanout['samples']} measured ones; in multiples of a shard's median"
    lines += [f"{fanout['queries']:,} queries, {drawn}.", ""]
    lines += table(
        ["shards", "one slow replica", "p50", "p99", "p50, hedged", "p99, hedged", "more calls"],
        [_fanout(row) for row in fanout["rows"]],
    )
    return "\n".join(lines).rstrip() + "\n"


def _run(result: Row) -> list[tuple[str, object, str]]:
    said = {
        "max_log_odds_diff": (
            "greatest difference of log-odds, 1, 2 and 4 workers and 4 shards against one process",
            "1e-4",
        ),
        "lost": ("documents lost after a killed node and a killed driver", "0"),
        "duplicated": ("documents there twice", "0"),
        "ray_overhead": ("encoding by two workers of one core, against two plain processes", "1.25"),
        "driver_memory_ratio": ("the driver's memory, 10 times as many documents against one", "flat"),
        "train_loss_diff": ("loss of two processes against one, 20 steps", "1e-3"),
        "failed_requests": ("failed requests when a shard's replica was killed under load", "0"),
        "speedup": ("judging pairs grouped by document, against in random order", ""),
    }
    return [(said[name][0], f"{result[name]:.3g}", said[name][1]) for name in said]


def _encoder(row: Row) -> list[object]:
    return [f"`{row['encoder']}`", row["backend"], row["tokens"], row["per_core"]]


def _store(row: Row) -> list[object]:
    bytes_ = (f"{row[part]:,.0f}" for part in ("table", "segment", "memory"))
    return [row["latent"], row["columns"], row["precision"], *bytes_, row["exact_p50_ms"], row["ann_p50_ms"]]


def _hours(row: Row, n: int) -> list[object]:
    hours = n / (row["per_core"] * CORES) / 3600
    return [f"`{row['encoder']}`", _power(n), f"{hours:,.1f}", f"{hours / 24:,.2f}"]


def _shards(row: Row, n: int, measured: int, ann: dict[int, float]) -> list[object]:
    memory = row["memory"] * n / 1e9
    shards = max(1, -(-memory // SHARD_GB))
    exact = row["exact_p50_ms"] * n / shards / measured
    slope = (ann[10**7] - ann[10**6]) / (10**7 - 10**6)
    ms = ann[10**6] + slope * (n / shards - 10**6)
    approximate = [f"{ms:,.0f}", f"{1000 / ms:.0f}"] if row["columns"] == 130 else ["", ""]
    size = [f"{row['table'] * n / 1e12:.2f}", f"{memory:,.0f}", f"{shards:.0f}"]
    return [row["latent"], row["precision"], _power(n), *size, f"{exact:,.0f}", f"{1000 / exact:.2f}", *approximate]


def _fanout(row: Row) -> list[object]:
    times = (f"{row[name]:.2f}" for name in ("plain_p50", "plain_p99", "hedged_p50", "hedged_p99"))
    return [row["shards"], "yes" if row["slow"] else "", *times, f"{row['more_calls']:.1%}"]


def _power(n: int) -> str:
    return f"10^{len(str(n)) - 1}"


if __name__ == "__main__":
    main()
