"""Write a retriever for other runtimes: a SentenceTransformer of stock modules, or its query path as ONNX."""

from __future__ import annotations

import argparse

from rabtriever.cli.arguments import print_result

FORMATS = ("sentence-transformers", "onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", help="a retriever (a folder or a hub id), or an encoder such as minilm")
    parser.add_argument("--to", choices=FORMATS, required=True, help="what to write")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder or URI to make")
    parser.add_argument(
        "--without-examples",
        action="store_true",
        help="leave out the labelled queries that the retriever remembers, which sentence-transformers cannot look up",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from rabtriever.persistence.folder import require_absent

    require_absent(args.out)
    from rabtriever.retriever import Rabtriever

    retriever = Rabtriever.from_pretrained(args.model, device="cpu", backend="torch", dtype="float32")
    if args.without_examples:
        retriever.examples = None
    if args.to == "onnx":
        from rabtriever.integrations.onnx import save_onnx

        save_onnx(retriever, args.out)
    else:
        from rabtriever.integrations.sentence_transformers import save_sentence_transformer

        save_sentence_transformer(retriever, args.out)
    loader = "onnxruntime" if args.to == "onnx" else f"SentenceTransformer({args.out!r})"
    print_result(args, {"model": args.model, "to": args.to, "out": args.out}, f"{args.out}: load it with {loader}")
