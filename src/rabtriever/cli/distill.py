"""Distil a reranker into a retriever, on-policy."""

from __future__ import annotations

import argparse

from rabtriever.cli import arguments
from rabtriever.errors import InputError
from rabtriever.persistence.folder import require_absent
from rabtriever.training.config import DistillConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    arguments.add_data_arguments(parser, "BEIR folder, or several; works without qrels as well")
    parser.add_argument(
        "--teacher", required=True, help="`tools`, a folder of `rabtriever train`, a hub id, or any LLM"
    )
    parser.add_argument("--out", required=True, help="folder to make; an interrupted run goes on with the same command")
    arguments.add_prompt_arguments(parser)
    arguments.add_model_arguments(parser)
    arguments.add_config_arguments(parser, DistillConfig)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    config = arguments.config_from_args(args, DistillConfig)
    require_absent(args.out)
    data = arguments.read_data(args)
    from rabtriever.rerankers.generative import GenerativeReranker
    from rabtriever.rerankers.loading import load_reranker
    from rabtriever.training.distill import distill

    teacher = load_reranker(args.teacher, **arguments.load_options(args), **arguments.prompt_options(args))
    if not isinstance(teacher, GenerativeReranker):
        raise InputError(
            f"--teacher {args.teacher}: distil needs an LLM, whose states the retriever learns to estimate"
        )
    distill(data, teacher, args.out, config)
    hint = f"next: rabtriever index {args.data[0]} --model {args.out} --out INDEX"
    arguments.print_result(args, {"retriever": args.out}, f"{args.out}: a retriever; {hint}")
