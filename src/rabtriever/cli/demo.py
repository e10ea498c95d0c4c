"""Run the built-in task: 40 requests that share no word with the right tool or skill."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabtriever.cli.report import print_report
from rabtriever.errors import InputError

if TYPE_CHECKING:
    from rabtriever.data import RetrievalData
    from rabtriever.evaluation import System
    from rabtriever.index import Index

MODEL = "models/tools"
SHOWN = 5

NEXT_STEPS = """
With your own data (corpus.jsonl, queries.jsonl, qrels/train.tsv in a folder DATA):
  rabtriever train DATA --out teacher                         an LLM reranker, by LoRA
  rabtriever distill DATA --teacher teacher --out retriever   its judgement at the price of a vector lookup
  rabtriever index DATA --model retriever --out index
  rabtriever search index "what you want"
  rabtriever evaluate DATA --model retriever --systems retriever,reranker,bm25
Or with this model as it is: rabtriever index DATA --model {model} --out index"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", help="a folder of `rabtriever distill` (default: the model that ships)")
    parser.add_argument("--reranker", action="store_true", help="evaluate the reranker as well (minutes on a CPU)")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from rabtriever.data import load_data
    from rabtriever.evaluation import BM25, evaluate
    from rabtriever.evaluation.systems import RerankerSystem
    from rabtriever.index import Index
    from rabtriever.retriever import Rabtriever

    model = args.model or _shipped()
    print("loading the model (the first time, its LLM is unpacked: about half a minute)", file=sys.stderr)
    retriever = Rabtriever.from_pretrained(model)
    data = load_data(str(files("rabtriever") / "demo"))
    documents = list(data.documents.values())
    with tempfile.TemporaryDirectory() as folder:
        index = Index.build(str(Path(folder) / "index"), retriever, documents)
        bm25 = BM25(documents)
        systems: dict[str, System] = {"retriever": IndexSystem(index, 10), "bm25": bm25}
        if args.reranker:
            systems["reranker"] = RerankerSystem(retriever.teacher, documents, None)
        if not args.json:
            _show(data, index, bm25)
        report = evaluate(data, systems, show_progress=args.reranker)
    if args.json:
        print(json.dumps(report))
        return
    print(
        f"{len(data.documents)} tools and skills; no request shares a content word with its answer, so keyword search"
    )
    print("has nothing to hold on to; BM25 is here to show just that.\n")
    print_report(report)
    print(NEXT_STEPS.format(model=model))


class IndexSystem:
    """An index as a system under evaluation: what a user's search does, encoding included."""

    def __init__(self, index: Index, depth: int) -> None:
        self.index, self.depth = index, depth

    def __call__(self, query: str) -> dict[str, float]:
        """Log-odds of the best documents."""
        return {hit.id: hit.log_odds for hit in self.index.search(query, k=self.depth)[0]}


def _show(data: RetrievalData, index: Index, bm25: Any) -> None:  # noqa: ANN401
    for query, text in list(data.queries.items())[:SHOWN]:
        print(f"\n“{text}”")
        for rank, hit in enumerate(index.search(text, k=3)[0], 1):
            mark = "*" if hit.id in data.qrels["test"][query] else " "
            print(f" {mark}{rank}  {hit.probability:6.1%}  {data.documents[hit.id].content}")
        scores = bm25(text)
        best = max(scores, key=lambda document: scores[document], default=None)
        print(f"  BM25's pick: {'nothing: no word in common' if best is None else data.documents[best].content}")
    print("\n(* the right one)\n")


def _shipped() -> str:
    """The model that ships: inside an installed wheel, or in the checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / MODEL, package.parents[1] / MODEL):
        if folder.is_dir():
            return str(folder)
    raise InputError(f"{MODEL}: the model that ships is not there; give --model, or run from a checkout")
