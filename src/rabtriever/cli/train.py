"""Train a reranker (the teacher) on the train split of a BEIR folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rabtriever.cli.arguments import add_data, add_flags, from_flags, read_data
from rabtriever.errors import InputError
from rabtriever.training.config import RerankerTrainingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_data(parser, "BEIR folder: corpus.jsonl, queries.jsonl, qrels/train.tsv; several make one model for all")
    parser.add_argument("--out", required=True, help="folder to make; an interrupted run goes on with the same command")
    parser.add_argument(
        "--model", default="smollm2", help="smollm2 (default), hub id, folder, .gguf, or a reranker to train further"
    )
    parser.add_argument("--prompt", help="JSON file with fields of the prompt template that differ from the default")
    add_flags(parser, RerankerTrainingConfig)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    settings = from_flags(args, RerankerTrainingConfig)
    from rabtriever.llm.prompt import PromptTemplate
    from rabtriever.training.train_reranker import train_reranker

    prompt = PromptTemplate.from_dict(_json(args.prompt)) if args.prompt else None
    train_reranker(read_data(args), args.out, args.model, prompt, settings)
    if args.json:
        print(json.dumps({"reranker": args.out}))
    else:
        again = f"rabtriever distill {' '.join(args.data)} --teacher {args.out} --out RETRIEVER"
        print(f"{args.out}: a reranker; next: {again}")


def _json(path: str) -> dict[str, object]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object with fields of the prompt")
    return values
