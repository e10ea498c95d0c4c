"""An index of given latents: writing, exact and approximate searches, adds, deletes, opening, memory."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from index.latents import Latents
from index.timing import alternate, percentiles, recall, resident_bytes, time_calls

from rabtriever.data import Document
from rabtriever.index import Index, view
from rabtriever.index.quantization import QuantizedLatents
from rabtriever.index.scan import candidates, scan
from rabtriever.index.view import MountedSegment, View
from rabtriever.retriever import Rabtriever

ANN_CURVE = (2000, 5000, 10_000, 20_000, 50_000, 100_000)  # documents that an approximate search reads


def measure_store(real: Latents, documents: np.ndarray, work: Path, kind: str, repeats: int) -> dict[str, Any]:
    """Returns the row of an index of these latents."""
    n, uri, model, queries = len(documents), work / f"index-{kind}-{len(documents)}", work / f"{kind}128", real.queries
    shutil.rmtree(uri, ignore_errors=True)
    started = time.perf_counter()
    index = Index.create(uri, Rabtriever.from_pretrained(model))
    index.add((Document(f"d{i}", f"text {i}") for i in range(n)), latents=documents)
    row: dict[str, Any] = {"n": n, "predictor": kind, "write_s": round(time.perf_counter() - started, 1)}
    started = time.perf_counter()
    opened = current_view(index)
    row["segments_s"] = round(time.perf_counter() - started, 1)
    info = index.info()
    row |= {key: round(info[f"{key}_bytes"] / n, 1) for key in ("table", "segment", "memory")}
    row["clusters"] = info["clusters"]
    calls = {
        mode: lambda i, mode=mode: opened.search(queries[i % len(queries)][None], 10, mode) for mode in ("exact", "ann")
    }
    found = alternate(calls, repeats)
    row |= {mode: percentiles(seconds) for mode, seconds in found.items()}
    row["ann_vs_exact_time"] = round(float(np.median(found["ann"]) / np.median(found["exact"])), 4)
    for k in (10, 100):
        row[f"ann_recall{k}"] = round(
            recall(ordinals(opened, queries, k, "exact"), ordinals(opened, queries, k, "ann")), 4
        )
    row["certified_at_once"] = round(_certified_share(opened.parts[0], queries), 3)
    row["ann_curve"] = _ann_curve(opened, queries, repeats)
    row |= _changes(index, documents, queries)
    return row | _opening_in_a_process(uri, model, work / f"{kind}-queries.npy", queries)


def current_view(index: Index) -> View:
    """Returns an index's view of its latest version."""
    return index._current.get()


def ordinals(opened: View, queries: np.ndarray, k: int, mode: str) -> list[np.ndarray]:
    """Returns the ordinals that each query finds."""
    return [ranking.ordinals for ranking in opened.search(queries, k, mode)]


def _changes(index: Index, documents: np.ndarray, queries: np.ndarray) -> dict[str, float]:
    """Returns the seconds until 1,000 more documents are found, and until 3 are gone."""
    n = len(documents)
    started = time.perf_counter()
    index.add((Document(f"new{i}", f"new {i}") for i in range(1000)), latents=documents[:1000])
    opened = current_view(index)
    opened.search(queries[:1], 10, "exact")
    row = {"add1000_s": round(time.perf_counter() - started, 3)}
    assert len(opened.snapshot) == n + 1000
    ids = [document.id for document in opened.snapshot.documents(ordinals(opened, queries[:1], 3, "exact")[0])]
    started = time.perf_counter()
    index.delete(ids)
    opened = current_view(index)
    left = ordinals(opened, queries[:1], 3, "exact")[0]
    row["delete_s"] = round(time.perf_counter() - started, 3)
    assert not {document.id for document in opened.snapshot.documents(left)} & set(ids)
    return row


def _certified_share(part: MountedSegment, queries: np.ndarray) -> float:
    """Returns the share of queries whose first candidates were enough."""
    codes, k = part.segment.codes, 10
    _, scores, error = candidates(codes, queries, part.live, 4 * k + 128)
    best_unseen = scores.min(axis=1) + error
    found = scan(queries, codes, part.segment.latents, part.live, k)
    return float(np.mean([limit < ranking.log_odds[-1] for limit, ranking in zip(best_unseen, found, strict=True)]))


def _ann_curve(opened: View, queries: np.ndarray, repeats: int) -> list[dict[str, float]]:
    """Returns recall@10 and time of an approximate search against the number of documents it reads."""
    exact, rows, default = ordinals(opened, queries, 10, "exact"), [], view.ANN_DOCUMENTS
    for number in ANN_CURVE:
        view.ANN_DOCUMENTS = number
        seconds = time_calls(lambda i: opened.search(queries[i % len(queries)][None], 10, "ann"), max(5, repeats // 2))
        found = recall(exact, ordinals(opened, queries, 10, "ann"))
        rows.append({"read": number, "recall10": round(found, 4), **percentiles(seconds)})
    view.ANN_DOCUMENTS = default
    return rows


def _opening_in_a_process(uri: Path, model: Path, path: Path, queries: np.ndarray) -> dict[str, float]:
    np.save(path, queries)
    run = Path(__file__).with_name("run.py")
    command = [sys.executable, str(run), "--open", str(uri), "--model", str(model), "--queries", str(path)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    shutil.rmtree(uri)
    row: dict[str, float] = json.loads(answer.splitlines()[-1])
    return row


def measure_opening(uri: str, model: str, queries: str) -> dict[str, float]:
    """Returns seconds and resident bytes of opening an index and searching it, in a process of its own."""
    retriever = Rabtriever.from_pretrained(model)
    Index.open(uri, retriever).table.snapshot(1)  # Lance's threads and caches are not what is measured
    some = np.load(queries)[::4]
    warm = QuantizedLatents.encode(some, retriever.layout, "int8")
    candidates(warm, some, np.ones(len(warm.bias), np.uint8), 3)
    gc.collect()
    before = resident_bytes()
    started = time.perf_counter()
    opened = current_view(Index.open(uri, retriever))
    seconds = time.perf_counter() - started
    for query in some:
        opened.search(query[None], 10, "exact")
    gc.collect()
    latents_bytes = len(opened.snapshot) * retriever.dim * 4
    return {"open_s": round(seconds, 3), "rss_vs_latents": round((resident_bytes() - before) / latents_bytes, 3)}
