"""Distil teachers into a retriever, with or without labels."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rabtriever.cli import arguments
from rabtriever.errors import InputError
from rabtriever.persistence.folder import local_path, require_absent
from rabtriever.training import processes
from rabtriever.training.config import DistillConfig, TuneEncoderConfig

if TYPE_CHECKING:
    from rabtriever.data import RetrievalData


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    summary = "BEIR folder or zip, or several, with or without qrels; with --queries or --generate, any source"
    arguments.add_data_arguments(parser, summary)
    parser.add_argument(
        "--queries", metavar="FILE", help="JSONL file of requests for that corpus, without labels; each line has a text"
    )
    parser.add_argument(
        "--generate",
        type=int,
        metavar="N",
        help="requests that --generator writes for each document, beside other ones",
    )
    arguments.add_generator_argument(parser)
    arguments.add_teacher_arguments(parser)
    parser.add_argument(
        "--encoder",
        default="minilm",
        metavar="NAME",
        help="what the retriever stands on: minilm, mpnet, a sentence-transformers model or an LLM (hub id or folder), "
        "or `teacher`: the teacher's own LLM, as in the paper (default: minilm)",
    )
    parser.add_argument(
        "--tune-encoder",
        nargs="?",
        const="full",
        choices=("full", "lora"),
        help="tune the encoder's own weights first, all of them or by an adapter (default: full, if given)",
    )
    parser.add_argument(
        "--encoder-steps",
        type=int,
        default=TuneEncoderConfig().steps,
        metavar="INT",
        help=f"optimiser steps of that (default: {TuneEncoderConfig().steps})",
    )
    scores_help = "folder or URI of `rabtriever judge --out`: scores that these teachers need not compute again"
    parser.add_argument("--scores", metavar="URI", help=scores_help)
    parser.add_argument(
        "--out", required=True, help="folder or URI to make; an interrupted run goes on with the same command"
    )
    arguments.add_model_arguments(parser)
    arguments.add_source_arguments(parser)
    arguments.add_config_arguments(parser, DistillConfig)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    config = arguments.config_from_args(args, DistillConfig)
    tuning = None
    if args.tune_encoder:
        tuning = TuneEncoderConfig(args.tune_encoder, steps=args.encoder_steps, seed=args.seed)
    require_absent(args.out)
    data = _read(args)
    from rabtriever.training.distill import distill

    retriever = distill(
        data,
        args.teacher,
        args.out,
        config,
        encoder=args.encoder,
        **arguments.teacher_options(args),
        tune_encoder=tuning,
        scores=args.scores,
        **arguments.load_options(args),
    )
    if processes.rank():
        return  # the first process tells
    hint = f"next: rabtriever index {args.data[0]} --model {args.out} --out INDEX"
    gain = retriever.fusion.gain
    confirmed = "" if gain else "; held-out queries confirmed no gain over the encoder, whose ranking it keeps"
    if data.queries.keys() <= data.generated:
        confirmed = "; all requests were generated, so nothing confirmed its gain or calibrated its probabilities"
    adapted = retriever.query_adapter is not None
    alone = ", with a query adapter: for these documents alone" if adapted else ""
    text = f"{args.out}: a retriever{alone}{confirmed}; {hint}"
    arguments.print_result(args, {"retriever": args.out, "gain": gain, "query_adapter": adapted}, text)


def _read(args: argparse.Namespace) -> RetrievalData:
    """Returns the data to learn from, with the requests that ``--generate`` asks for."""
    for flag in ("queries", "generate"):
        if getattr(args, flag) is not None and len(args.data) > 1:
            raise InputError(f"--{flag}: belongs to one corpus; give one, or BEIR folders that hold their queries")
    from rabtriever.data import add_requests

    if args.queries or (args.generate is not None and not _has_queries(args.data[0])):
        from rabtriever.sources import load_source

        data = load_source(args.data[0], **arguments.source_columns(args))
    else:
        for source in args.data:
            if local_path(source).is_file() and not source.endswith(".zip"):
                raise InputError(f"{source}: documents without requests; give --queries FILE, or --generate N")
        data = arguments.read_data(args)
    if args.queries:
        data = add_requests(data, args.queries)
    if args.generate is not None:
        path = f"{args.out}.requests.jsonl"  # beside the folder, which is made in one piece at the end
        processes.first(lambda: arguments.generate(args, args.generate, path))
        data = add_requests(data, path)
    return data


def _has_queries(source: str) -> bool:
    return source.endswith(".zip") or (local_path(source) / "queries.jsonl").is_file()
