"""The scan of 384 products (an embedding) and 128 ReLUs (a correction), against FAISS's 8-bit scan of 512 numbers.

Usage: python benchmarks/index/mixed.py [--documents 1000000] [--repeats 60] [--out FILE]

Both read int8 on one thread, in turns; numbers are random, documents' gains 1 or 0.25. Needs faiss-cpu, and 8 GB for
10^6 documents. The last line is JSON: milliseconds a query, alone and of 32, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from index.scans import faiss_scan, live_mask
from index.timing import alternate, percentiles, recall
from record import machine

from rabtriever.index.quantization import QuantizedLatents
from rabtriever.index.scan import candidates, scan
from rabtriever.scoring.layout import ScoreLayout

LAYOUT = ScoreLayout(n_inner=384, n_positive=64, n_negative=64)
K, BATCH = 10, 32
PEER = "faiss sq8"


def random_latents(n: int, seed: int) -> np.ndarray:
    """Returns latents float32 (n, dim): an embedding of length 1, units of a like size, a gain, a bias."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((n, LAYOUT.dim), np.float32)
    latents[:, : LAYOUT.n_inner] /= np.linalg.norm(latents[:, : LAYOUT.n_inner], axis=1, keepdims=True)
    latents[:, LAYOUT.n_inner : LAYOUT.width] *= LAYOUT.n_relu**-0.5
    latents[:, -2] = rng.choice([0.25, 1], n)
    return latents


def measure(n: int, repeats: int) -> dict[str, Any]:
    """Returns the figures of n documents."""
    documents, queries, live = random_latents(n, 0), random_latents(BATCH, 1), live_mask(n)
    codes = QuantizedLatents.encode(documents, LAYOUT, "int8")
    exact = [found.ordinals for found in scan(queries, codes, documents, live, K)]
    peer, columns = faiss_scan(PEER, documents[:, : LAYOUT.width]), np.ascontiguousarray(queries[:, : LAYOUT.width])
    del documents
    one = {
        "ours": lambda i: candidates(codes, queries[i % BATCH][None], live, K, threads=1),
        PEER: lambda i: peer.search(columns[i % BATCH][None], K),
    }
    batch = {
        "ours, of 32": lambda i: candidates(codes, queries, live, K, threads=1),
        f"{PEER}, of 32": lambda i: peer.search(columns, K),
    }
    found, of_batch = alternate(one, repeats), alternate(batch, max(3, repeats // 10))
    row: dict[str, Any] = {"n": n, "recall10_of_codes": recall(exact, list(candidates(codes, queries, live, K)[0]))}
    row |= {name: percentiles(seconds) for name, seconds in found.items()}
    row |= {name: percentiles(seconds, BATCH) for name, seconds in of_batch.items()}
    return row | {"ratio_to_peer": round(float(np.median(found["ours"]) / np.median(found[PEER])), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10**6)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    record = {"command": "python benchmarks/index/mixed.py", **machine(), "layout": LAYOUT.to_dict()}
    record["versions"] |= {name: version(name) for name in ("faiss-cpu", "numba", "numpy")}
    row = measure(args.documents, args.repeats)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**record, **row}, indent=1) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
