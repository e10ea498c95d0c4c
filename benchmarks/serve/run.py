"""The server under load: latency, throughput, mixed work at saturation, and what SIGKILL leaves.

Usage: python benchmarks/serve/run.py --data FOLDER_OF_BEIR_FOLDERS --work FOLDER [--model models/tools] [--quick]
           [--json] [--size 100000] [--out FILE]

WORK keeps the index of SIZE documents: MetaTool's tools and OpenBookQA's answers, encoded, and variants of both whose
latents are those of their originals with noise. Queries are MetaTool's, none twice but in the mixed part: the query
cache shall not answer. The client takes its share of the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from kill import lost_writes
from load import Queries, at_rate, closed, merged
from mixed import Expected, mixed
from server import Server

from rabtriever import Document, Index, Rabtriever, load_data

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import machine

TURN, TURNS = 6, 4  # seconds of one client or sixteen, and how often they take turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--model", default="models/tools")
    parser.add_argument("--size", type=int, default=100_000, help="documents; 199: the tools alone")
    parser.add_argument("--quick", action="store_true", help="a minute of mixed load, not ten")
    parser.add_argument("--json", action="store_true", help="the summary alone, one line")
    parser.add_argument("--out")
    args = parser.parse_args()
    data = load_data(str(Path(args.data) / "metatool"))
    retriever = Rabtriever.from_pretrained(args.model)
    uri = Path(args.work) / f"index-{args.size}"
    if not uri.is_dir():
        build(uri, retriever, Path(args.data), args.size)
    texts = list(data.queries.values())
    random.Random(0).shuffle(texts)
    expected = Expected.of(Index.open(uri, retriever), texts[:64])
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        report = asyncio.run(measure(uri, args.model, Path(folder), Queries(texts[64:]), expected, args.quick))
    report = {**machine(), "documents": args.size, **report}
    report["summary"] = summary(report)
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report["summary"]) if args.json else json.dumps(report, indent=2))


def build(uri: Path, retriever: Rabtriever, data: Path, size: int) -> None:
    """Builds the index to serve."""
    documents = list(load_data(str(data / "metatool")).documents.values())
    if size > len(documents):
        documents += list(load_data(str(data / "openbookqa")).documents.values())
    documents = documents[:size]
    latents = retriever.encode_document([document.content for document in documents], show_progress_bar=True)
    generator, turns = np.random.default_rng(0), np.arange(size) // len(documents)

    def variants() -> Iterator[Document]:
        for i, turn in enumerate(turns):
            content = documents[i % len(documents)].content
            yield Document(str(i), f"{content} ({turn})" if turn else content)

    rows = latents[np.arange(size) % len(documents)]
    rows += (turns > 0)[:, None] * 0.1 * latents.std(0) * generator.standard_normal(rows.shape, np.float32)
    index = Index.create(uri, retriever)
    index.add(variants(), rows)
    index.optimize()


async def measure(
    uri: Path, model: str, folder: Path, queries: Queries, expected: Expected, quick: bool
) -> dict[str, Any]:
    """Measures all parts, one server after another, each on a copy of the index."""
    report: dict[str, Any] = {}
    with Server(uri, model, folder / "load") as server:
        await closed(server, queries, 4, 3)  # warm
        ones, sixteens = [], []
        for _ in range(TURNS):
            ones.append(await closed(server, queries, 1, TURN))
            sixteens.append(await closed(server, queries, 16, TURN))
        report["one"], report["sixteen"] = merged(ones), merged(sixteens)
        report["half"] = await at_rate(server, queries, report["sixteen"]["throughput"] / 2, 20 if quick else 60)
        report["mixed"] = await mixed(server, expected, 20 if quick else 60, 60 if quick else 600)
    report["killed"] = await lost_writes(uri, model, folder / "killed", 300 if quick else 1000)
    return report


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures that count."""
    parts = [report[name] for name in ("one", "sixteen", "half", "mixed")]
    return {
        "errors": sum(part["errors"] for part in parts) + report["killed"]["errors"],
        "wrong": report["mixed"]["wrong"],
        "p50_ms": report["half"]["p50_ms"],
        "p99_ms": report["half"]["p99_ms"],
        "throughput_16_vs_1": round(report["sixteen"]["throughput"] / report["one"]["throughput"], 2),
        "overhead_ms": report["one"]["overhead_ms"],
        "rss_growth": report["mixed"]["rss_growth"],
        "lost_writes": report["killed"]["lost"],
    }


if __name__ == "__main__":
    main()
