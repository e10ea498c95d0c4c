"""The index against FAISS, bm25s and the machine's memory, in one run.

Usage: python benchmarks/index/run.py --data BEIR_FOLDERS --work WORK [--quick] [--json] [--sizes N ...] [--out FILE]

--quick: 10^6 documents made of two small corpora, at most ten minutes once WORK holds the latents. Else 10^4 to 10^7.
Needs faiss-cpu. The last line is JSON: with --json the figures that matter at the first size, all rows are in --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from index.latents import enlarged, real_latents
from index.scans import measure_int8_loss, measure_others, measure_scans
from index.stores import measure_opening, measure_store
from record import machine

SIZES = (10**4, 10**5, 10**6, 10**7)
REPEATS = {10**4: 300, 10**5: 200, 10**6: 60}
SUMMARY_N = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--open", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--queries", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        return print(json.dumps(measure_opening(args.open, args.model, args.queries)))
    args.work.mkdir(parents=True, exist_ok=True)
    sizes = args.sizes or ((SUMMARY_N,) if args.quick else SIZES)
    record: dict[str, Any] = {"command": "python benchmarks/index/run.py --data D --work W", **machine()}
    record["versions"] |= {name: version(name) for name in ("faiss-cpu", "numba", "lancedb", "numpy")}
    rows: dict[str, list[Any]] = {"scans": [], "stores": [], "others": [], "int8_loss": []}
    summary: dict[str, Any] = {}
    if args.out and args.out.is_file():  # other sizes stay as they were measured
        old = json.loads(args.out.read_text())
        summary = old["summary"]
        rows |= {name: [row for row in old[name] if row["n"] not in sizes] for name in rows if name != "int8_loss"}
    for kind in ("mlp",) if args.quick else ("mlp", "quadratic"):
        real = real_latents(args.data, args.work, kind, args.quick)
        record.setdefault("real_documents", len(real.documents))
        loss = measure_int8_loss(real)
        rows["int8_loss"].append({"predictor": kind, **loss})
        for n in sizes:
            if n > 10**6 and kind == "quadratic":
                continue  # its scan is the same work
            repeats, corpora = REPEATS.get(n, 20), "quick" if args.quick else "all"
            documents = enlarged(real.documents, n, args.work / f"{kind}-{corpora}-{n}.npy")
            scans = measure_scans(real, documents, kind, repeats)
            store = measure_store(real, documents, args.work, kind, repeats)
            rows["scans"] += scans.values()
            rows["stores"].append(store)
            if kind == "quadratic" and n <= 10**6:
                rows["others"].append(measure_others(real, documents, repeats))
            print(json.dumps({"n": n, "predictor": kind, "scans": scans, "store": store}), file=sys.stderr, flush=True)
            if kind == "mlp" and (n == SUMMARY_N or n == sizes[0] and SUMMARY_N not in sizes):
                summary = summarize(scans["int8"], store, loss)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps({**record, "summary": summary, **rows}, indent=1) + "\n")
    print(json.dumps(summary))


def summarize(scan: dict[str, Any], store: dict[str, Any], loss: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures that matter."""
    return {
        "n": store["n"],
        "scan_int8_vs_faiss_sq8": scan["ratio_to_peer"],
        **{key: scan[key] for key in ("bandwidth_share", "two_thread_speedup", "batch32_speedup")},
        **{key: store[key] for key in ("ann_recall10", "ann_vs_exact_time")},
        "int8_r10_loss": round(max(row["float32"] - row["int8"] for row in loss.values()), 4),
        **{key: store[key] for key in ("add1000_s", "open_s", "rss_vs_latents")},
    }


if __name__ == "__main__":
    main()
