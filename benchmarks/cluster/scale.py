"""The constants of docs/scale.md: what a document costs to encode, to store and to search, measured on this machine.

Usage: python benchmarks/cluster/scale.py --out FILE [--encoder NAME ...] [--llm LLM] [--quick]

Encoding: documents a second of one core, built-in tool descriptions, the median of turns. Storage: bytes a document of
the table (text aside) and of the segments, and those in memory, by the latent's columns and the scan's number format.
Search: milliseconds of one query, exact and approximate, and its times one by one, from which ``fanout.py`` draws.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rabtriever import Document, load_data
from rabtriever.encoders.loading import load_encoder
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.layout import ScoreLayout
from rabtriever.threads import available_cores

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import machine

DEMO = Path(__file__).parents[2] / "src" / "rabtriever" / "demo"
LAYOUTS = {
    "128 products (paper)": ScoreLayout(0, 64, 64),
    "384 products (an encoder alone)": ScoreLayout(384),
    "384 products, 256 ReLUs (`tools`)": ScoreLayout(384, 138, 118),
}
PRECISIONS = ("int8", "float16", "float32")


@dataclass
class Latents:
    """What an index needs of a retriever when latents are given."""

    layout: ScoreLayout
    fingerprint: str = "0" * 64
    name_or_path: str | None = None
    calibration: Calibration = Calibration()  # noqa: RUF009


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", action="append", default=[], help="minilm and these; may be repeated")
    parser.add_argument("--llm", help="an LLM as the encoder")
    parser.add_argument("--quick", action="store_true", help="fewer documents and turns")
    args = parser.parse_args()
    names = ["minilm", *args.encoder, *([args.llm] if args.llm else [])]
    report: dict[str, Any] = {**machine(), "cores_used": available_cores()}
    report["encoding"] = [row for name in names if (row := encoding(name, 3 if args.quick else 7))]
    n = 20_000 if args.quick else 200_000
    report["documents"] = n
    report["stores"] = [row for name, layout in LAYOUTS.items() for row in stores(name, layout, n)]
    args.out.write_text(json.dumps(report, indent=1) + "\n")


def encoding(name: str, turns: int) -> dict[str, Any] | None:
    """Returns how many documents a second an encoder reads; None if it cannot be loaded."""
    try:
        encoder = load_encoder(name)
    except InputError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None
    texts = [document.content for document in load_data(DEMO).documents.values()]
    texts = texts[: 64 if encoder.has_similarity else 8]
    encoder.encode_documents(texts[:2])
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        encoder.encode_documents(texts)
        seconds.append(time.perf_counter() - started)
    described = encoder.describe()
    tokens = float(np.mean(encoder.count_tokens("document", texts)))
    per_second = len(texts) / statistics.median(seconds)
    row = {"encoder": Path(described["name"]).name, "backend": described["backend"], "tokens": round(tokens, 1)}
    print(name, round(per_second, 2), "documents a second", file=sys.stderr)
    return {**row, "documents_per_second": round(per_second, 2), "per_core": round(per_second / available_cores(), 2)}


def stores(name: str, layout: ScoreLayout, n: int) -> list[dict[str, Any]]:
    """Returns a row for each number format of an index of random latents."""
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((n, layout.dim), np.float32) / np.sqrt(layout.dim)
    documents[:, -2:] = [1.0, 0.0]
    queries = rng.standard_normal((400, layout.dim), np.float32) / np.sqrt(layout.dim)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        uri, retriever = Path(folder) / "index", Latents(layout)
        made: Any = retriever
        Index.create(uri, made).add((Document(f"d{i}", f"text {i}") for i in range(n)), latents=documents)
        for precision in PRECISIONS:
            index = Index.open(uri, made, precision=precision)
            started = time.perf_counter()
            view = index._current.get()
            seconds = time.perf_counter() - started
            info = index.info()
            row: dict[str, Any] = {"latent": name, "columns": layout.dim, "precision": precision}
            row |= {part: round(info[f"{part}_bytes"] / n, 1) for part in ("table", "segment", "memory")}
            row["segments_s_per_million"] = round(seconds * 1e6 / n, 1)
            times: dict[str, list[float]] = {"exact": [], "ann": []}
            view.search(queries, 10, "exact")  # compiles, and reads what is mapped
            for query in queries:
                for mode, of_mode in times.items():
                    started = time.perf_counter()
                    view.search(query[None], 10, mode)
                    of_mode.append(1000 * (time.perf_counter() - started))
            row |= {f"{mode}_p50_ms": round(statistics.median(of_mode), 3) for mode, of_mode in times.items()}
            if precision == "int8":
                row["exact_ms"] = [round(value, 3) for value in times["exact"]]
            rows.append(row)
            print({key: value for key, value in row.items() if key != "exact_ms"}, file=sys.stderr)
    return rows


if __name__ == "__main__":
    main()
