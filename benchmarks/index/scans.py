"""The scan against reading its bytes, FAISS's scans and graph, and bm25s."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bm25s
import faiss
import numpy as np
from index.latents import Latents
from index.timing import alternate, percentiles, recall
from numba import njit

from rabtriever.index.quantization import QuantizedLatents
from rabtriever.index.scan import candidates, scan
from rabtriever.kernels import BLOCK

pool = ThreadPoolExecutor(2)
PEERS = {"int8": "faiss sq8", "float32": "faiss flat"}


@njit(nogil=True)
def read(words: np.ndarray) -> int:
    """Touches every word, as any scan must."""
    total = 0
    for word in words:
        total ^= word
    return total


def live_mask(n: int) -> np.ndarray:
    """Returns uint8, 1 for the positions of n documents, 0 for the rest of the last block."""
    live = np.zeros(-(-n // BLOCK) * BLOCK, np.uint8)
    live[:n] = 1
    return live


def measure_scans(real: Latents, documents: np.ndarray, kind: str, repeats: int) -> dict[str, Any]:
    """Returns a row for each precision, with FAISS's flat or 8-bit scan over the same latents beside it."""
    rows = {}
    for precision in ("int8", "float32", "float16") if len(documents) <= 10**6 else ("int8",):
        rows[precision] = {"n": len(documents), "predictor": kind, **_scan_row(real, documents, precision, repeats)}
        gc.collect()
    return rows


def _scan_row(real: Latents, documents: np.ndarray, precision: str, repeats: int) -> dict[str, Any]:
    queries, live, k = real.queries, live_mask(len(documents)), 10
    batch = np.resize(queries, (32, queries.shape[1]))
    started = time.perf_counter()
    codes = QuantizedLatents.encode(documents, real.layout, precision)
    row: dict[str, Any] = {
        "precision": precision,
        "bytes": codes.blocks.nbytes,
        "encode_s": round(time.perf_counter() - started, 2),
    }
    words = np.ascontiguousarray(codes.blocks).reshape(-1).view(np.int64)

    def ours(i: int, threads: int = 1) -> Any:
        return candidates(codes, queries[i % len(queries)][None], live, k, threads=threads)

    calls: dict[str, Callable[[int], Any]] = {
        "1 thread": ours,
        "2 threads": lambda i: ours(i, 2),
        "read": lambda i: read(words),
        "read, 2 threads": lambda i: list(pool.map(read, np.array_split(words, 2))),
    }
    batches: dict[str, Callable[[int], Any]] = {
        "batch of 32": lambda i: candidates(codes, batch, live, k, threads=1),
        "batch of 32, 2 threads": lambda i: candidates(codes, batch, live, k, threads=2),
    }
    name = PEERS.get(precision)
    if name:
        peer, columns = faiss_scan(name, documents[:, :-2]), np.ascontiguousarray(queries[:, :-2])
        calls[name] = lambda i: peer.search(columns[i % len(columns)][None], k)
        batches[f"{name}, batch of 32"] = lambda i: peer.search(np.ascontiguousarray(batch[:, :-2]), k)
    found, of_batch = alternate(calls, repeats), alternate(batches, max(3, repeats // 10))
    row |= {key: percentiles(seconds) for key, seconds in found.items()}
    row |= {key: percentiles(seconds, 32) for key, seconds in of_batch.items()}
    median = {key: float(np.median(seconds)) for key, seconds in (found | of_batch).items()}
    row["bandwidth_share"] = round(median["read"] / median["1 thread"], 3)
    row["read_gb_s"] = round(words.nbytes / median["read"] / 1e9, 1)
    row["two_thread_speedup"] = round(median["1 thread"] / median["2 threads"], 3)
    row["two_thread_speedup_of_reading"] = round(median["read"] / median["read, 2 threads"], 3)
    row["two_thread_speedup_of_32"] = round(median["batch of 32"] / median["batch of 32, 2 threads"], 3)
    row["batch32_speedup"] = round(median["1 thread"] / (median["batch of 32"] / 32), 2)
    if name:
        row["ratio_to_peer"] = round(median["1 thread"] / median[name], 3)
    return row


def faiss_scan(name: str, columns: np.ndarray) -> Any:
    """Returns FAISS's flat or 8-bit scan of these columns float32 (n, width) by inner product, on one thread."""
    peer = faiss.IndexFlatIP(columns.shape[1])
    if name == "faiss sq8":
        kind = faiss.ScalarQuantizer.QT_8bit
        peer = faiss.IndexScalarQuantizer(columns.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        peer.train(np.ascontiguousarray(columns[:100_000]))
    for start in range(0, len(columns), 100_000):
        peer.add(np.ascontiguousarray(columns[start : start + 100_000]))
    faiss.omp_set_num_threads(1)
    return peer


def measure_int8_loss(real: Latents) -> dict[str, Any]:
    """Returns R@10 by float32 and by int8 codes alone, without the float32 rescoring of a search."""
    found = {}
    for name, (documents, queries, labels) in real.labelled.items():
        codes, live = QuantizedLatents.encode(documents, real.layout, "int8"), live_mask(len(documents))
        positions = candidates(codes, queries, live, 10)[0]
        exact = [ranking.ordinals for ranking in scan(queries, codes, documents, live, 10)]
        n_relevant = np.maximum(1, labels.sum(1))
        found[name] = {
            "int8": round(float(np.mean([labels[i, row].sum() / n_relevant[i] for i, row in enumerate(positions)])), 4),
            "float32": round(float(np.mean([labels[i, row].sum() / n_relevant[i] for i, row in enumerate(exact)])), 4),
            "n_queries": len(queries),
            "same_ten": round(recall(exact, list(positions)), 4),
        }
    return found


def measure_others(real: Latents, documents: np.ndarray, repeats: int) -> dict[str, Any]:
    """Returns the figures of FAISS's graph over the same numbers, and of bm25s over the texts, repeated likewise."""
    n, columns = len(documents), np.ascontiguousarray(real.queries[:, :-2])
    flat, graph = faiss.IndexFlatIP(128), faiss.IndexHNSWFlat(128, 16, faiss.METRIC_INNER_PRODUCT)
    values = np.ascontiguousarray(documents[:, :-2])
    flat.add(values)
    faiss.omp_set_num_threads(2)
    started = time.perf_counter()
    graph.add(values)
    row: dict[str, Any] = {"n": n, "hnsw_build_s": round(time.perf_counter() - started, 1)}
    faiss.omp_set_num_threads(1)
    graph.hnsw.efSearch = 64
    row["hnsw_recall10"] = round(recall(list(flat.search(columns, 10)[1]), list(graph.search(columns, 10)[1])), 4)
    started = time.perf_counter()
    words = bm25s.BM25()
    texts = [real.texts[i % len(real.texts)] for i in range(n)]
    words.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    row["bm25s_build_s"] = round(time.perf_counter() - started, 1)
    tokens = [bm25s.tokenize([text], show_progress=False) for text in real.query_texts]
    calls: dict[str, Callable[[int], Any]] = {
        "faiss hnsw": lambda i: graph.search(columns[i % len(columns)][None], 10),
        "bm25s": lambda i: words.retrieve(tokens[i % len(tokens)], k=10, show_progress=False),
    }
    return row | {name: percentiles(seconds) for name, seconds in alternate(calls, repeats).items()}
