"""Distil a reranker into a retriever, on-policy."""

from __future__ import annotations

import argparse
import json

from rabtriever.cli.arguments import (
    add_config_arguments,
    add_data_arguments,
    add_model_arguments,
    config_from_args,
    load_options,
    read_data,
)
from rabtriever.persistence.folder import require_absent
from rabtriever.training.config import DistillConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_data_arguments(parser, "BEIR folder, or several; works without qrels as well")
    parser.add_argument(
        "--teacher", required=True, help="`tools`, a folder of `rabtriever train`, a hub id, or any LLM"
    )
    parser.add_argument("--out", required=True, help="folder to make")
    add_model_arguments(parser)
    add_config_arguments(parser, DistillConfig)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    config = config_from_args(args, DistillConfig)
    require_absent(args.out)
    data = read_data(args)
    from rabtriever.rerankers.generative import load_reranker
    from rabtriever.training.distill import distill

    distill(data, load_reranker(args.teacher, **load_options(args)), args.out, config)
    if args.json:
        print(json.dumps({"retriever": args.out}))
    else:
        print(f"{args.out}: a retriever; next: rabtriever index {args.data[0]} --model {args.out} --out INDEX")
