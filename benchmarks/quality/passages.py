"""Passages of TREC DL 2019 and 2020: BM25's top 100 of all 8.8 million, ranked anew by each encoder.

    python passages.py --data BEIR_FOLDERS [--mpnet MODEL] [--gemma MODEL] [--systems minilm tools mpnet]

``msmarco_dl1920/runs`` holds BM25's runs and the qrels of NIST. nDCG@10; writes ``results/quality/passages.json`` after
each system, and skips those that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import nDCG

from rabtriever import Rabtriever, load_data

sys.path.insert(0, str(Path(__file__).parents[1]))
from quality.corpora import Bench  # noqa: E402
from record import machine  # noqa: E402

RESULT = Path(__file__).parents[1] / "results" / "quality" / "passages.json"
MEASURE = nDCG @ 10
YEARS = ("dl19", "dl20")
Run = dict[str, dict[str, float]]


def read(folder: Path, year: str) -> tuple[Run, dict[str, dict[str, int]]]:
    """Returns BM25's run of the queries that NIST judged, and the qrels."""
    qrels = ir_measures.read_trec_qrels(str(folder / f"qrels.{year}-passage.txt"))
    judged: dict[str, dict[str, int]] = {}
    for qrel in qrels:
        judged.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    run: Run = {}
    for scored in ir_measures.read_trec_run(str(folder / f"bm25_{year}.trec")):
        if scored.query_id in judged:
            run.setdefault(scored.query_id, {})[scored.doc_id] = scored.score
    return run, judged


def rerank(retriever: Rabtriever, run: Run, queries: dict[str, str], documents: dict[str, str]) -> Run:
    """Returns the run with the retriever's log-odds."""
    ids = sorted({document for found in run.values() for document in found})
    row_of = {document: row for row, document in enumerate(ids)}
    latents = retriever.encode_document([documents[document] for document in ids])
    ranked: Run = {}
    for query, found in run.items():
        rows = np.array([row_of[document] for document in found])
        scores = retriever.similarity(retriever.encode_query([queries[query]]), latents[rows])[0]
        ranked[query] = dict(zip(found, scores.tolist(), strict=True))
    return ranked


def main() -> None:
    """Ranks anew and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    for name in ("gemma", "mpnet"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--systems", nargs="+", default=["minilm", "tools", "mpnet"])
    args = parser.parse_args()
    bench, folder = Bench(args), args.data / "msmarco_dl1920"
    data = load_data(folder)
    contents = {key: document.content for key, document in data.documents.items()}
    years = {year: read(folder / "runs", year) for year in YEARS}
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {"systems": {}, "machine": machine()}
    for system in ["bm25", *args.systems]:
        if system in result["systems"]:
            continue
        of, retriever = {}, None
        if system != "bm25":
            shipped = system == "tools"
            retriever = Rabtriever.from_pretrained("tools") if shipped else Rabtriever(bench.model(system))
        for year, (run, qrels) in years.items():
            ranked = rerank(retriever, run, data.queries, contents) if retriever else run
            of[year] = {"nDCG@10": ir_measures.calc_aggregate([MEASURE], qrels, ranked)[MEASURE], "queries": len(run)}
        result["systems"][system] = of
        RESULT.write_text(json.dumps(result, indent=1, default=float) + "\n")
        print(system, of, flush=True)


if __name__ == "__main__":
    main()
