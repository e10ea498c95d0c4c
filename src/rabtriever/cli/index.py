"""Index a corpus with a retriever, or bring an index up to date."""

from __future__ import annotations

import argparse
import json

from rabtriever.cli.arguments import add_model_arguments, load_options, open_index
from rabtriever.errors import InputError
from rabtriever.persistence.folder import require_absent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("corpus", help="corpus.jsonl, or a BEIR folder")
    parser.add_argument(
        "--out", required=True, dest="uri", metavar="URI", help="folder or object-store URI of the index"
    )
    parser.add_argument(
        "--update", action="store_true", help="the index exists: add new documents, replace those of existing ids"
    )
    add_model_arguments(parser, "`tools`, a folder of `rabtriever distill` or a hub id; default with --update: its own")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if not args.update:
        if not args.model:
            raise InputError("--model: name the retriever that encodes the documents, such as tools")
        if "://" not in args.uri:
            require_absent(args.uri)
    from rabtriever.data import read_corpus

    documents = read_corpus(args.corpus)
    if args.update:
        index = open_index(args)
        index.upsert(documents, show_progress_bar=True)
        index.optimize()
    else:
        from rabtriever.index import Index
        from rabtriever.retriever import Rabtriever

        retriever = Rabtriever.from_pretrained(args.model, **load_options(args))
        index = Index.build(args.uri, retriever, documents, show_progress_bar=True)
    if args.json:
        print(json.dumps({"index": args.uri, "documents": len(index)}))
    else:
        print(f"{args.uri}: {len(index)} documents; next: rabtriever search {args.uri} QUERY")
