"""Evaluate systems on a BEIR folder: quality, latency, and the retriever's fidelity to its reranker."""

from __future__ import annotations

import argparse
import json

from rabtriever.cli.report import print_report
from rabtriever.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("data", help="BEIR folder")
    parser.add_argument(
        "--model", required=True, help="a folder of `rabtriever distill`, or `train` for the reranker alone"
    )
    parser.add_argument("--split", default="test", help="which qrels (default: test)")
    parser.add_argument(
        "--systems", default="retriever,bm25", help="of retriever,reranker,bm25 (default: retriever,bm25)"
    )
    parser.add_argument("--limit", type=int, help="a sample of this many queries")
    parser.add_argument("--seed", type=int, default=0, help="of that sample (default: 0)")
    depth = "largest corpus that the reranker scores whole; of a larger one, the first stage's best 100 (default: 500)"
    parser.add_argument("--depth", type=int, default=500, help=depth)
    parser.add_argument("--runs", metavar="DIR", help="folder for TREC runs")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit {args.limit}: give at least 1")
    from rabtriever.data import load_data
    from rabtriever.evaluation import evaluate
    from rabtriever.evaluation.systems import load_systems

    data = load_data(args.data)
    data.labelled_queries(args.split)
    systems = load_systems(args.systems.split(","), data, args.model, args.depth)
    report = evaluate(data, systems, args.split, args.limit, args.seed, args.runs, show_progress=True)
    print(json.dumps(report)) if args.json else print_report(report)
