"""Train a reranker, the teacher of `distill`, on the train split of a BEIR folder."""

from __future__ import annotations

import argparse
import json

from rabtriever.cli import arguments
from rabtriever.errors import InputError
from rabtriever.persistence.folder import local_path, require_absent
from rabtriever.training import processes
from rabtriever.training.config import RerankerTrainingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    data_help = "BEIR folder: corpus.jsonl, queries.jsonl, qrels/train.tsv; several make one model for all"
    arguments.add_data_arguments(parser, data_help)
    parser.add_argument(
        "--out", required=True, help="folder or URI to make; an interrupted run goes on with the same command"
    )
    model_help = "`smollm2` (default), a hub id, a folder, a .gguf file, or a reranker or retriever to train further"
    parser.add_argument("--model", default="smollm2", help=model_help)
    parser.add_argument("--prompt", help="JSON file with fields of the prompt template that differ from the default")
    arguments.add_model_arguments(parser, backend=False)  # torch trains
    arguments.add_config_arguments(parser, RerankerTrainingConfig)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    config = arguments.config_from_args(args, RerankerTrainingConfig)
    require_absent(args.out)
    from rabtriever.llm.prompt import PromptTemplate

    prompt = PromptTemplate.from_dict(_read_object(args.prompt)) if args.prompt else None
    data = arguments.read_data(args)
    from rabtriever.training.train_reranker import train_reranker

    train_reranker(data, args.out, args.model, prompt=prompt, config=config, device=args.device, dtype=args.dtype)
    if processes.rank():
        return  # the first process tells
    hint = f"next: rabtriever distill {' '.join(args.data)} --teacher {args.out} --out RETRIEVER"
    arguments.print_result(args, {"reranker": args.out}, f"{args.out}: a reranker; {hint}")


def _read_object(path: str) -> dict[str, object]:
    try:
        values = json.loads(local_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error}); correct or replace it") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object with fields of the prompt; put them in braces")
    return values
