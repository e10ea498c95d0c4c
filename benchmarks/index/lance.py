"""Lance's vector indices against our clusters: recall of the ten best, time, time to build.

Usage: python benchmarks/index/lance.py --data BEIR_FOLDERS --work WORK [--documents 200000] [--out FILE]

For Lance the ReLU is replaced by a parabola a unit, fitted to queries and documents: then a score is an inner product.
All gains are 1. What it finds is to be ranked by the true score, which is not in its time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import lancedb
import numpy as np
import pyarrow as pa
from index.latents import Latents, enlarged, real_latents
from lancedb.index import HnswSq, IvfFlat, IvfPq, IvfRq
from record import machine

from rabtriever.index import segments, view
from rabtriever.index.view import MountedSegment, View

PAD = 136  # numbers of a vector: 129, filled up to a multiple of 8
KINDS = {
    "IVF_FLAT": IvfFlat(distance_type="dot", num_partitions=512),
    "IVF_PQ": IvfPq(distance_type="dot", num_partitions=512, num_sub_vectors=34),
    "IVF_RQ": IvfRq(distance_type="dot", num_partitions=512),
    "IVF_HNSW_SQ": HnswSq(distance_type="dot", num_partitions=8),
}


def parabolas(real: Latents, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns vectors of queries and documents whose inner product is near the score, up to a constant a query."""
    a, b = real.queries[:, :-2].astype(np.float64), documents[:, :-2].astype(np.float64)
    signs = np.where(np.arange(a.shape[1]) < real.layout.n_positive, 1.0, -1.0)
    square, linear = np.zeros(a.shape[1]), np.zeros(a.shape[1])
    for j in range(a.shape[1]):
        x = (a[::2, j][:, None] + real.documents[::40, j]).ravel()
        fit = np.linalg.lstsq(np.stack([x * x, x, np.ones_like(x)], 1), np.maximum(x, 0), rcond=None)[0]
        square[j], linear[j] = fit[:2]
    rest = (square * b * b + linear * b) @ signs + documents[:, -1]
    left = np.pad(np.concatenate([2 * signs * square * a, np.ones((len(a), 1))], 1), [(0, 0), (0, PAD - 129)])
    right = np.pad(np.concatenate([b, rest[:, None]], 1), [(0, 0), (0, PAD - 129)])
    return left.astype(np.float32), right.astype(np.float32)


def measure(true: list[np.ndarray], search: Any) -> dict[str, float]:  # noqa: ANN401
    """Returns recall of the ten best, and milliseconds, over the queries that the parabolas were not fitted to."""
    shares, seconds = [], []
    for i in range(1, len(true), 2):
        started = time.perf_counter()
        got = search(i)
        seconds.append(time.perf_counter() - started)
        shares.append(len(set(true[i].tolist()) & set(got.tolist())) / 10)
    return {"recall10": round(float(np.mean(shares)), 4), "p50_ms": round(1e3 * float(np.median(seconds)), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="two small corpora instead of all")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    real = real_latents(args.data, args.work, "mlp", args.quick)
    documents = enlarged(
        real.documents, args.documents, args.work / f"mlp-{'quick' if args.quick else 'all'}-{args.documents}.npy"
    )
    keys, folder = np.arange(len(documents)), args.work / "lance-trial"
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    segment = segments.Segments(str(args.work), "trial", real.layout, "int8").make(keys, documents)
    built = round(time.perf_counter() - started, 1)
    ours = View(keys, [MountedSegment.of(segment, np.asarray(segment.keys))])  # type: ignore[arg-type]

    def search_ours(i: int, mode: str) -> np.ndarray:
        return ours.search(real.queries[i][None], 10, mode)[0].ordinals

    true = [ranking.ordinals for ranking in ours.search(real.queries, 10, "exact")]
    rows = [
        {
            "index": "exact scan",
            "build_s": 0,
            **measure(true, lambda i: search_ours(i, "exact")),
        }
    ]
    for number in (5000, 10_000, 20_000):
        view.ANN_DOCUMENTS = number
        near = measure(true, lambda i: search_ours(i, "ann"))
        rows.append({"index": f"clusters, {number:,} read", "build_s": built, **near})
    left, right = parabolas(real, documents)
    shape = pa.schema([("n", pa.int64()), ("v", pa.list_(pa.float32(), PAD))])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(right.ravel()), PAD)
    table = lancedb.connect(folder).create_table("t", pa.record_batch([pa.array(keys), vectors], schema=shape))
    flat = left @ right.T
    best = measure(true, lambda i: np.argpartition(-flat[i], 200)[:200])
    rows.append({"index": "all parabolas, best 200", "build_s": 0, "recall10": best["recall10"]})
    for kind, config in KINDS.items():
        started = time.perf_counter()
        table.create_index("v", config=config, replace=True)
        built = round(time.perf_counter() - started, 1)
        for probes in (1, 4, 8) if "HNSW" in kind else (5, 20, 50):

            def search(i: int, probes: int = probes, kind: str = kind) -> np.ndarray:
                query = table.search(left[i], vector_column_name="v").distance_type("dot").nprobes(probes).limit(200)
                return (query.ef(400) if "HNSW" in kind else query).select(["n"]).to_arrow()["n"].to_numpy()

            rows.append({"index": f"{kind}, {probes} probes, 200", "build_s": built, **measure(true, search)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    shutil.rmtree(folder)
    shutil.rmtree(segment.folder)
    record = {"command": "python benchmarks/index/lance.py --data D --work W", **machine(), "documents": len(documents)}
    record |= {"n_queries": len(true) // 2, "rows": rows}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
