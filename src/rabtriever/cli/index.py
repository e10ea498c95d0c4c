"""Index a corpus with a retriever, or bring an index up to date."""

from __future__ import annotations

import argparse

from rabtriever.cli.arguments import add_model_arguments, load_options, open_index, print_result
from rabtriever.errors import ConflictError, InputError
from rabtriever.persistence.folder import require_absent
from rabtriever.progress import is_shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
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
        from rabtriever.index.table import connect_to_empty, normalized_uri

        uri = normalized_uri(args.uri)
        try:
            if "://" in uri:
                connect_to_empty(uri)
            else:
                require_absent(uri)
        except ConflictError as error:
            raise ConflictError(f"{error}; --update adds documents to an index") from None
    from rabtriever.data import read_corpus

    documents = read_corpus(args.corpus)
    if args.update:
        index = open_index(args)
        index.upsert(documents, show_progress_bar=is_shown())
        index.optimize()
    else:
        from rabtriever.index import Index
        from rabtriever.retriever import Rabtriever

        retriever = Rabtriever.from_pretrained(args.model, **load_options(args))
        index = Index.build(args.uri, retriever, documents, show_progress_bar=is_shown())
    text = f"{args.uri}: {len(index)} documents; next: rabtriever search {args.uri} QUERY"
    print_result(args, {"index": args.uri, "documents": len(index)}, text)
