"""Distil a reranker into a retriever, on-policy."""

from __future__ import annotations

import argparse
import json

from rabtriever.cli.arguments import add_data, add_flags, from_flags, read_data
from rabtriever.training.config import DistillConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_data(parser, "BEIR folder, or several; works without qrels as well")
    parser.add_argument("--teacher", required=True, help="a folder of `rabtriever train`, or any LLM")
    parser.add_argument("--out", required=True, help="folder to make")
    add_flags(parser, DistillConfig)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    settings = from_flags(args, DistillConfig)
    from rabtriever.training.distill import distill

    distill(read_data(args), args.teacher, args.out, settings)
    if args.json:
        print(json.dumps({"retriever": args.out}))
    else:
        print(f"{args.out}: a retriever; next: rabtriever index {args.data[0]} --model {args.out} --out INDEX")
