"""The index against FAISS, bm25s and the machine's memory, in one run.

Usage: python benchmarks/index/run.py --data BEIR_FOLDERS --work WORK [--quick] [--json] [--sizes N ...] [--out FILE]

--quick: 10^6 documents, at most ten minutes once WORK holds the latents. Else 10^4 to 10^7. Needs faiss-cpu. The last
line is JSON: with --json the figures that matter at 10^6, all rows are in --out.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import bm25s
import faiss
import numpy as np
from index.latents import enlarged, latents
from numba import njit
from record import machine

from rabtriever.data import Document
from rabtriever.index import Index, view
from rabtriever.index.quantization import QuantizedLatents
from rabtriever.index.scan import candidates, scan
from rabtriever.index.view import Part, View
from rabtriever.retriever import Rabtriever

pool = ThreadPoolExecutor(2)
SIZES = (10**4, 10**5, 10**6, 10**7)
HERE = Path(__file__)


@njit(nogil=True)
def read(words: np.ndarray) -> int:
    """Touch every word: what any scan must do."""
    total = 0
    for word in words:
        total ^= word
    return total


def times(call: Callable[[int], Any], repeats: int) -> list[float]:
    """Seconds of each call, after one to warm up."""
    call(0)
    found = []
    for i in range(repeats):
        started = time.perf_counter()
        call(i)
        found.append(time.perf_counter() - started)
    return found


def alternated(calls: dict[str, Callable[[int], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, by turns, so that what else the machine does meets all alike."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(0)
    for i in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call(i)
            found[name].append(time.perf_counter() - started)
    return found


def shown(seconds: list[float], queries: int = 1) -> dict[str, float]:
    """Milliseconds a query."""
    return {
        "p50_ms": round(1e3 * float(np.median(seconds)) / queries, 4),
        "p99_ms": round(1e3 * float(np.quantile(seconds, 0.99)) / queries, 4),
    }


def scans(real: Any, documents: np.ndarray, kind: str, repeats: int) -> dict[str, Any]:
    """Every precision and FAISS's flat and 8-bit scans over the same latents."""
    n, queries = len(documents), real.queries
    live, k = np.ones(-(-n // 64) * 64, np.uint8), 10
    live[n:] = 0
    rows: dict[str, Any] = {}
    thirty_two = np.resize(queries, (32, queries.shape[1]))
    peers = {"faiss flat": faiss.IndexFlatIP(128)}
    peers["faiss sq8"] = faiss.IndexScalarQuantizer(128, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    for name, precision in (("faiss sq8", "int8"), ("faiss flat", "float32"), ("", "float16")):
        if n > 10**6 and precision != "int8":
            continue
        started = time.perf_counter()
        codes = QuantizedLatents.encode(documents, real.positive, precision)
        built = time.perf_counter() - started
        words = np.ascontiguousarray(codes.blocks).reshape(-1).view(np.int64)

        def ours(i: int, threads: int = 1, many: int = 1, codes: QuantizedLatents = codes) -> Any:
            some = thirty_two if many > 1 else queries[i % len(queries)][None]
            return candidates(codes, some, live, k, threads=threads)

        calls: dict[str, Callable[[int], Any]] = {
            "1 thread": ours,
            "2 threads": lambda i: ours(i, 2),
            "read": lambda i, words=words: read(words),
            "read, 2 threads": lambda i, words=words: list(pool.map(read, np.array_split(words, 2))),
        }
        if name:
            peer = peers[name]
            if not peer.is_trained:
                peer.train(np.ascontiguousarray(documents[:100_000, :-1]))
            for start in range(0, n, 500_000):
                peer.add(np.ascontiguousarray(documents[start : start + 500_000, :-1]))
            asked = np.ascontiguousarray(queries[:, :-1])
            faiss.omp_set_num_threads(1)
            calls[name] = lambda i, peer=peer, asked=asked: peer.search(asked[i % len(asked)][None], k)
        found = alternated(calls, repeats)
        few = max(3, repeats // 10)
        batches = {"ours": lambda i: ours(i, 1, 32), "2 threads": lambda i: ours(i, 2, 32)}
        if name:
            batches[name] = lambda i, peer=peer: peer.search(np.ascontiguousarray(thirty_two[:, :-1]), k)
        batch = alternated(batches, few)
        seconds = {key: float(np.median(value)) for key, value in found.items()}
        row = {
            "n": n,
            "predictor": kind,
            "precision": precision,
            "bytes": codes.blocks.nbytes,
            "encode_s": round(built, 2),
        }
        row |= {key: shown(value) for key, value in found.items()}
        row["batch of 32"] = shown(batch["ours"], 32)
        row["batch of 32, 2 threads"] = shown(batch["2 threads"], 32)
        row["bandwidth_share"] = round(seconds["read"] / seconds["1 thread"], 3)
        row["read_gb_s"] = round(words.nbytes / seconds["read"] / 1e9, 1)
        row["two_thread_speedup"] = round(seconds["1 thread"] / seconds["2 threads"], 3)
        row["two_thread_speedup_of_reading"] = round(seconds["read"] / seconds["read, 2 threads"], 3)
        row["two_thread_speedup_of_32"] = round(float(np.median(batch["ours"]) / np.median(batch["2 threads"])), 3)
        row["batch32_speedup"] = round(seconds["1 thread"] / (float(np.median(batch["ours"])) / 32), 2)
        if name:
            row[f"{name}, batch of 32"] = shown(batch[name], 32)
            row["ratio_to_peer"] = round(seconds["1 thread"] / seconds[name], 3)
        rows[precision] = row
        del codes, words, calls, batches
        peers.pop(name, None)
        gc.collect()
    return rows


def int8_loss(real: Any) -> dict[str, Any]:
    """R@10 by float32 and by int8 codes alone, without the second look that a search takes."""
    found = {}
    for name, (documents, queries, right) in real.judged.items():
        codes, live = (
            QuantizedLatents.encode(documents, real.positive, "int8"),
            np.ones(-(-len(documents) // 64) * 64, np.uint8),
        )
        live[len(documents) :] = 0
        positions, scores, _ = candidates(codes, queries, live, 10)
        exact = [found for found, _ in scan(queries, codes, documents, live, 10)]
        relevant = np.maximum(1, right.sum(1))
        recall = {
            "int8": np.mean([right[i, row].sum() / relevant[i] for i, row in enumerate(positions)]),
            "float32": np.mean([right[i, row].sum() / relevant[i] for i, row in enumerate(exact)]),
        }
        same = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(positions.tolist(), exact, strict=True)])
        found[name] = {key: round(float(value), 4) for key, value in recall.items()} | {
            "n_queries": len(queries),
            "same_ten": round(float(same), 4),
        }
    return found


def others(real: Any, documents: np.ndarray, repeats: int) -> dict[str, Any]:
    """FAISS's graph over the same numbers, and BM25 over the texts, repeated as the latents are."""
    n, asked = len(documents), np.ascontiguousarray(real.queries[:, :-1])
    flat, graph = faiss.IndexFlatIP(128), faiss.IndexHNSWFlat(128, 16, faiss.METRIC_INNER_PRODUCT)
    values = np.ascontiguousarray(documents[:, :-1])
    flat.add(values)
    faiss.omp_set_num_threads(2)
    started = time.perf_counter()
    graph.add(values)
    row: dict[str, Any] = {"n": n, "hnsw_build_s": round(time.perf_counter() - started, 1)}
    faiss.omp_set_num_threads(1)
    graph.hnsw.efSearch = 64
    exact, near = flat.search(asked, 10)[1], graph.search(asked, 10)[1]
    row["hnsw_recall10"] = round(
        float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, near, strict=True)])), 4
    )
    started = time.perf_counter()
    words = bm25s.BM25()
    texts = [real.texts[i % len(real.texts)] for i in range(n)]
    words.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    row["bm25s_build_s"] = round(time.perf_counter() - started, 1)
    tokens = [bm25s.tokenize([text], show_progress=False) for text in real.asked]
    calls: dict[str, Callable[[int], Any]] = {
        "faiss hnsw": lambda i: graph.search(asked[i % len(asked)][None], 10),
        "bm25s": lambda i: words.retrieve(tokens[i % len(tokens)], k=10, show_progress=False),
    }
    return row | {name: shown(seconds) for name, seconds in alternated(calls, repeats).items()}


def store(real: Any, documents: np.ndarray, work: Path, kind: str, repeats: int) -> dict[str, Any]:
    """An index of these latents: its making, exact and approximate searches, adds, deletes, opening, memory."""
    n, uri, model = len(documents), work / f"index-{kind}-{len(documents)}", str(work / f"{kind}128")
    shutil.rmtree(uri, ignore_errors=True)
    retriever = Rabtriever.from_pretrained(model)
    started = time.perf_counter()
    index = Index.create(uri, retriever)
    index.add((Document(f"d{i}", f"text {i}") for i in range(n)), latents=documents)
    row: dict[str, Any] = {"n": n, "predictor": kind, "write_s": round(time.perf_counter() - started, 1)}
    started = time.perf_counter()
    opened = index._opened()
    row["segments_s"] = round(time.perf_counter() - started, 1)
    info = index.info()
    row |= {key: round(info[f"{key}_bytes"] / n, 1) for key in ("table", "segment", "memory")}
    row["clusters"] = info["clusters"]
    queries = real.queries
    calls = {
        mode: lambda i, mode=mode: opened.search(queries[i % len(queries)][None], 10, mode) for mode in ("exact", "ann")
    }
    found = alternated(calls, repeats)
    row |= {mode: shown(seconds) for mode, seconds in found.items()}
    row["ann_vs_exact_time"] = round(float(np.median(found["ann"]) / np.median(found["exact"])), 4)
    for k in (10, 100):
        exact, near = (opened.search(queries, k, mode) for mode in ("exact", "ann"))
        shares = [len(set(a) & set(b)) / len(a) for (a, _), (b, _) in zip(exact, near, strict=True)]
        row[f"ann_recall{k}"] = round(float(np.mean(shares)), 4)
    row["certified_at_once"] = round(_certified(opened.parts[0], queries), 3)
    row["ann_curve"] = _curve(opened, queries, repeats)
    started = time.perf_counter()
    index.add((Document(f"new{i}", f"new {i}") for i in range(1000)), latents=documents[:1000])
    seen = index._opened()
    seen.search(queries[:1], 10, "exact")
    row["add1000_s"] = round(time.perf_counter() - started, 3)
    assert len(seen.snapshot.keys) == n + 1000
    gone = [document.id for document in seen.snapshot.documents(seen.search(queries[:1], 3, "exact")[0][0])]
    started = time.perf_counter()
    index.delete(gone)
    seen = index._opened()
    left = seen.search(queries[:1], 3, "exact")
    row["delete_s"] = round(time.perf_counter() - started, 3)
    assert not {document.id for document in seen.snapshot.documents(left[0][0])} & set(gone)
    asked = work / f"{kind}-queries.npy"
    np.save(asked, queries)
    answer = subprocess.run(
        [sys.executable, HERE, "--open", str(uri), "--model", model, "--queries", str(asked)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    row |= json.loads(answer.stdout.splitlines()[-1])
    shutil.rmtree(uri)
    return row


def _certified(part: Part, queries: np.ndarray) -> float:
    """Share of queries whose first proposal was enough."""
    codes, k = part.segment.codes, 10
    _, scores, error = candidates(codes, queries, part.live, 4 * k + 128)
    missed = scores.min(axis=1) + error
    found = scan(queries, codes, part.segment.latents, part.live, k)
    return float(np.mean([limit < scores[-1] for limit, (_, scores) in zip(missed, found, strict=True)]))


def _curve(opened: View, queries: np.ndarray, repeats: int) -> list[dict[str, float]]:
    """Recall@10 and time of an approximate search against the number of documents it reads."""
    exact, rows, before = opened.search(queries, 10, "exact"), [], view.NEAR
    for number in (2000, 5000, 10_000, 20_000, 50_000, 100_000):
        view.NEAR = number
        near = opened.search(queries, 10, "ann")
        seconds = times(lambda i: opened.search(queries[i % len(queries)][None], 10, "ann"), max(5, repeats // 2))
        recall = np.mean([len(set(a) & set(b)) / len(a) for (a, _), (b, _) in zip(exact, near, strict=True)])
        rows.append(
            {
                "read": number,
                "recall10": round(float(recall), 4),
                **shown(seconds),
            }
        )
    view.NEAR = before
    return rows


def opening(uri: str, model: str, queries: str) -> dict[str, float]:
    """Seconds and resident bytes of opening an index and searching it, in a process of its own."""
    retriever = Rabtriever.from_pretrained(model)
    Index.open(uri, retriever).store.snapshot(1)  # Lance's threads and caches are not what is asked about
    chance = np.load(queries)[::4]
    warm = QuantizedLatents.encode(chance, retriever.positive, "int8")
    candidates(warm, chance, np.ones(len(warm.bias), np.uint8), 3)
    gc.collect()
    before = _resident()
    started = time.perf_counter()
    opened = Index.open(uri, retriever)._opened()
    seconds = time.perf_counter() - started
    for query in chance:
        opened.search(query[None], 10, "exact")
    gc.collect()
    latents_ = len(opened.snapshot.keys) * retriever.dim * 4
    return {"open_s": round(seconds, 3), "rss_vs_latents": round((_resident() - before) / latents_, 3)}


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--open", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--queries", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        return print(json.dumps(opening(args.open, args.model, args.queries)))
    record: dict[str, Any] = {"command": "python benchmarks/index/run.py --data D --work W", **machine()}
    record["versions"] |= {name: version(name) for name in ("faiss-cpu", "numba", "lancedb", "numpy")}
    rows: dict[str, list[Any]] = {"scans": [], "stores": [], "others": [], "int8_loss": []}
    summary: dict[str, Any] = {}
    if args.out and args.out.is_file():  # other sizes stay as they were measured
        known = json.loads(args.out.read_text())
        summary = known["summary"]
        rows |= {
            name: [row for row in known[name] if row["n"] not in args.sizes] for name in rows if name != "int8_loss"
        }
    for kind in ("mlp", "quadratic"):
        real = latents(args.data, args.work, kind)
        record.setdefault("real_documents", len(real.documents))
        loss = int8_loss(real)
        rows["int8_loss"].append({"predictor": kind, **loss})
        for n in (10**6,) if args.quick else args.sizes:
            if n > 10**6 and kind == "quadratic":
                continue  # its scan is the same work
            repeats = {10**4: 300, 10**5: 200, 10**6: 60}.get(n, 20)
            documents = enlarged(real.documents, n, args.work / f"{kind}-{n}.npy")
            found = scans(real, documents, kind, repeats)
            rows["scans"] += found.values()
            kept = store(real, documents, args.work, kind, repeats)
            rows["stores"].append(kept)
            if kind == "quadratic" and n <= 10**6:
                rows["others"].append(others(real, documents, repeats))
            print(json.dumps({"n": n, "predictor": kind, "scans": found, "store": kept}), file=sys.stderr, flush=True)
            if kind == "mlp" and n == 10**6:
                summary = {"scan_int8_vs_faiss_sq8": found["int8"]["ratio_to_peer"]}
                summary |= {
                    key: found["int8"][key] for key in ("bandwidth_share", "two_thread_speedup", "batch32_speedup")
                }
                summary |= {key: kept[key] for key in ("ann_recall10", "ann_vs_exact_time")}
                summary["int8_r10_loss"] = round(max(row["float32"] - row["int8"] for row in loss.values()), 4)
                summary |= {key: kept[key] for key in ("add1000_s", "open_s", "rss_vs_latents")}
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps({**record, "summary": summary, **rows}, indent=1) + "\n")
        if args.quick:
            break
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
