"""Run the built-in task: 200 requests that share no word with the right tool or skill."""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from typing import TYPE_CHECKING

from rabtriever.cli.arguments import add_model_arguments, load_options, print_result
from rabtriever.cli.evaluate import format_report, make_systems
from rabtriever.errors import InputError
from rabtriever.progress import is_shown, notice

if TYPE_CHECKING:
    from rabtriever.data import RetrievalData
    from rabtriever.evaluation import System
    from rabtriever.retriever import Rabtriever

SUMMARY = """
{n_documents} tools and skills; no request shares a content word with its answer, so keyword search
has nothing to hold on to; BM25 is here to show just that.

{report}

With your own documents (corpus.jsonl) and requests (requests.jsonl), without labels:
  rabtriever distill CORPUS --queries requests.jsonl --teacher mpnet --out retriever
  rabtriever index CORPUS --model retriever --out index
  rabtriever search index "what you want"
  rabtriever evaluate DATA --model retriever     where there are labels: is it better than its encoder?
Or with this model as it is: rabtriever index CORPUS --model {model} --out index"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    model_help = "a retriever or an encoder: a folder or a hub id (default: the one that ships)"
    parser.add_argument("--model", default="tools", help=model_help)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from rabtriever.data import load_data
    from rabtriever.evaluation import evaluate
    from rabtriever.retriever import Rabtriever

    notice("loading the model")
    retriever = Rabtriever.from_pretrained(args.model, query_cache=0, **load_options(args))
    data = load_data(str(files("rabtriever") / "demo"))
    names = ["bm25", "encoder", "retriever", *(["rerank10"] if _can_rerank(retriever) else [])]
    systems = make_systems(names, data, retriever)
    if not args.json:
        _print_examples(data, systems)
    report = evaluate(data, systems, show_progress_bar=is_shown())
    text = SUMMARY.format(n_documents=len(data.documents), report=format_report(report), model=args.model)
    print_result(args, report, text)


def _can_rerank(retriever: Rabtriever) -> bool:
    """Returns whether there is a reranker; one whose LLM is not on this machine is left out, with a line on stderr."""
    try:
        return retriever.reranker is not None
    except InputError as error:
        print(f"rabtriever demo: without the reranker ({error})", file=sys.stderr)
        return False


def _print_examples(data: RetrievalData, systems: dict[str, System], n_queries: int = 5) -> None:
    texts = list(data.queries.values())[:n_queries]
    rankings, lexical = systems["retriever"](texts), systems["bm25"](texts)
    for query, text, hits, shared in zip(data.queries, texts, rankings, lexical, strict=False):
        print(f"\n“{text}”")
        for rank, hit in enumerate(hits[:3], 1):
            mark = "*" if hit.id in data.qrels["test"][query] else " "
            print(f" {mark}{rank}  {hit.probability:6.1%}  {hit.text}")
        print(f"  BM25's pick: {shared[0].text if shared else 'nothing: no word in common'}")
    print("\n(* the right one)")
