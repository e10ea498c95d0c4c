"""Who runs the LLM pass best on a CPU: backends that were candidates, a process each, taking turns.

Usage: python benchmarks/encode/candidates.py --data FOLDER_OF_BEIR_FOLDERS [--model models/tools] [--out FILE]

Everyone gets NFCorpus's documents sorted by length, in batches of 16; one query of 16 and of 64 tokens; and MetaTool's
pairs for the reranker's log-odds. Needs ``pip install rabtriever[benchmarks]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import OTHERS, OURS, Contender
from texts import some_texts

from rabtriever import GenerativeReranker, load_data

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import machine

TURNS, QUERY_TURNS = 3, 20
REFERENCE = "transformers float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="models/tools")
    parser.add_argument("--only", help="names, separated by commas; the reference comes along")
    parser.add_argument("--out")
    args = parser.parse_args()
    names = [name for name in (*OTHERS, *OURS) if not args.only or name in (REFERENCE, *args.only.split(","))]
    reranker = GenerativeReranker.from_pretrained(args.model, backend="torch")
    prompt, data = reranker.llm.prompt, load_data(str(Path(args.data) / "metatool"))
    texts = sorted(some_texts(Path(args.data) / "nfcorpus", 32), key=lambda text: len(prompt.document_ids([text])[0]))
    tokens = sum(map(len, prompt.document_ids(texts)))
    asked = prompt.query_ids(list(data.labelled_queries("test", 6).values()))
    read = prompt.document_ids([document.content for document in list(data.documents.values())[:40]])
    long = prompt.query_ids([" ".join(data.queries.values())[:2000]], with_bos=True)[0]
    jobs = {f"query{n}": ([long[:n]], "mean") for n in (16, 64)}
    jobs["pairs"] = ([document + query for query in asked for document in read], "last")
    contenders = {}
    for name in names:
        contenders[name] = Contender(name, args.model, texts, jobs)
        print(name, "is ready", file=sys.stderr)
    seconds: dict[str, dict[str, list[float]]] = {name: {job: [] for job in ("documents", *jobs)} for name in names}
    found: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    peaks = dict.fromkeys(names, 0)
    for job, turns in (("documents", TURNS), ("query16", QUERY_TURNS), ("query64", QUERY_TURNS), ("pairs", 0)):
        for turn in range(turns + 1):  # the first does not count
            for name, contender in contenders.items():
                time, found[name][job], peak = contender(job)
                peaks[name] = max(peaks[name], peak)
                if turn:
                    seconds[name][job].append(time)
    for contender in contenders.values():
        contender.close()

    def row(name: str) -> dict[str, Any]:
        states, expected = found[name], found[REFERENCE]
        times = seconds[name]
        log_odds = [(one["pairs"] @ reranker.llm.choice_direction).numpy() for one in (states, expected)]
        cosine = torch.cosine_similarity(states["documents"], expected["documents"]).min()
        return {
            "tokens_per_second": round(tokens / statistics.median(times["documents"])),
            **{f"{job}_ms": round(1000 * statistics.median(times[job]), 1) for job in ("query16", "query64")},
            "peak_mb": peaks[name],
            "cosine_min": round(float(cosine), 5),
            "pearson_reranker": round(float(np.corrcoef(*log_odds)[0, 1]), 5),
        }

    packages = {name: version(name) for name in ("onnxruntime", "openvino", "nncf")}
    texts_read = {"documents": len(texts), "tokens": tokens, "pairs": len(asked) * len(read)}
    report = {**machine(), "packages": packages, **texts_read, "contenders": {name: row(name) for name in names}}
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
