"""Let an instruct LLM write requests for each document of a corpus, to read, edit and distil with."""

from __future__ import annotations

import argparse

from rabtriever.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("data", nargs=1, metavar="corpus", help=arguments.SOURCE_HELP)
    arguments.add_generator_argument(parser)
    parser.add_argument("-n", type=int, default=5, metavar="N", help="requests for each document (default: 5)")
    out_help = "JSONL file to make or to go on with: documents that have N requests in it are left out"
    parser.add_argument("--out", required=True, metavar="FILE", help=out_help)
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default: 0)")
    arguments.add_model_arguments(parser)
    arguments.add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    count = arguments.generate(args, args.n, args.out)
    hint = f"next: rabtriever distill {args.data[0]} --queries {args.out} --teacher TEACHER --out RETRIEVER"
    arguments.print_result(args, {"requests": args.out, "written": count}, f"{args.out}: {count} new requests; {hint}")
