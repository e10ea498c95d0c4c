"""Index a catalogue with a retriever, or bring an index up to date."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rabtriever.cli.arguments import (
    SOURCE_HELP,
    add_model_arguments,
    add_source_arguments,
    load_options,
    open_index,
    print_result,
    source_columns,
)
from rabtriever.errors import ConflictError, InputError
from rabtriever.persistence.folder import normalized_uri, require_absent
from rabtriever.progress import is_shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("source", help=SOURCE_HELP)
    parser.add_argument(
        "--out", required=True, dest="uri", metavar="URI", help="folder or object-store URI of the index"
    )
    parser.add_argument(
        "--update", action="store_true", help="the index exists: encode what is new or changed, and nothing else"
    )
    parser.add_argument(
        "--delete", action="store_true", help="with --update: remove documents that the source does not have any more"
    )
    add_model_arguments(parser, "`tools`, a folder of `rabtriever distill` or a hub id; default with --update: its own")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.update:
        return _update(args)
    if args.delete:
        raise InputError("--delete: removes documents of an index that exists; give it with --update")
    if not args.model:
        raise InputError("--model: name the retriever that encodes the documents, such as tools")
    _require_new(args.uri)
    from rabtriever.sources import read_source

    documents = read_source(args.source, **source_columns(args))
    from rabtriever.index import Index
    from rabtriever.retriever import Rabtriever

    retriever = Rabtriever.from_pretrained(args.model, **load_options(args))
    index = Index.build(args.uri, retriever, documents, show_progress_bar=is_shown())
    text = f"{args.uri}: {len(index)} documents; next: rabtriever search {args.uri} QUERY"
    print_result(args, {"index": args.uri, "documents": len(index)}, text)


def _update(args: argparse.Namespace) -> None:
    from rabtriever.sources import read_source

    documents = read_source(args.source, **source_columns(args))
    index = open_index(args)
    changes = index.sync(documents, args.delete, show_progress_bar=is_shown())
    if changes.any:
        index.optimize()
    counts = asdict(changes)
    told = ", ".join(f"{name} {counts[name]}" for name in ("added", "changed", "removed", "unchanged"))
    missing = f"; {changes.missing} others are not in {args.source}: --delete removes them" if changes.missing else ""
    result = {"index": args.uri, "documents": len(index), **counts}
    print_result(args, result, f"{args.uri}: {len(index)} documents: {told}{missing}")


def _require_new(uri: str) -> None:
    from rabtriever.index.table import connect_to_empty

    uri = normalized_uri(uri)
    try:
        if "://" in uri:
            connect_to_empty(uri)
        else:
            require_absent(uri)
    except ConflictError as error:
        raise ConflictError(f"{error}; --update adds documents to an index") from None
