"""Index a catalogue with a retriever, or bring an index up to date."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from rabtriever.cli.arguments import (
    SOURCE_HELP,
    WORKER_OPTIONS,
    add_model_arguments,
    add_source_arguments,
    add_worker_arguments,
    load_options,
    open_index,
    print_result,
    require_ray,
    source_columns,
    worker_options,
)
from rabtriever.errors import ConflictError, InputError
from rabtriever.persistence.folder import normalized_uri, require_absent
from rabtriever.persistence.object_store import is_remote, is_uri
from rabtriever.progress import is_shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rabtriever.cluster.journal import Failure
    from rabtriever.index.syncing import Changes

SHOWN_FAILURES = 10


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
    cluster = add_worker_arguments(parser)
    shards_help = "with --ray: also prepare what each of N shards of `serve --ray --shards N` reads (default: 1)"
    cluster.add_argument("--shards", type=int, metavar="N", help=shards_help)


def run(args: argparse.Namespace) -> int | None:
    """Runs the command; returns 1 if a document could not be encoded."""
    require_ray(args, (*WORKER_OPTIONS, "shards"))
    if args.ray:
        return _run_on_cluster(args)
    if args.update:
        _update(args)
        return None
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
    return None


def _run_on_cluster(args: argparse.Namespace) -> int:
    if args.delete and not args.update:
        raise InputError("--delete: removes documents of an index that exists; give it with --update")
    if not args.model and not args.update:
        raise InputError("--model: name the retriever that encodes the documents, such as tools")
    shards = 1 if args.shards is None else args.shards
    if shards < 1:
        raise InputError(f"--shards {shards}: at least 1")
    from rabtriever.cluster.encode import encode_corpus
    from rabtriever.cluster.running import Workers
    from rabtriever.cluster.segments import build_segments
    from rabtriever.cluster.session import connected
    from rabtriever.index.table import Table
    from rabtriever.sources.tables import Columns

    model = args.model or Table.open(args.uri).model_source()
    workers = Workers(**worker_options(args))
    with connected(args.ray):
        done = encode_corpus(
            args.source,
            model,
            args.uri,
            update=args.update,
            delete=args.delete,
            columns=Columns(args.id_column, args.text_column, args.title_column),
            workers=workers,
            options=load_options(args),
            show_progress_bar=is_shown(),
        )
        _tell_failures(done.failed)
        if shards > 1 or not is_uri(args.uri):  # of one process, a store's segments are made where they are read
            build_segments(args.uri, shards, address=args.ray)
    _print_changes(args, done.documents, done.changes, {"failed": [asdict(one) for one in done.failed]})
    return 1 if done.failed else 0


def _tell_failures(failed: Sequence[Failure]) -> None:
    for failure in failed[:SHOWN_FAILURES]:
        print(f"rabtriever index: {failure.place}: not indexed: {failure.reason}", file=sys.stderr)
    if (more := len(failed) - SHOWN_FAILURES) > 0:
        print(f"rabtriever index: {more} more documents were not indexed; --json lists them", file=sys.stderr)


def _update(args: argparse.Namespace) -> None:
    from rabtriever.sources import read_source

    documents = read_source(args.source, **source_columns(args))
    index = open_index(args)
    changes = index.sync(documents, args.delete, show_progress_bar=is_shown())
    if changes.any:
        index.optimize()
    _print_changes(args, len(index), changes, {})


def _print_changes(args: argparse.Namespace, n_documents: int, changes: Changes, more: dict[str, object]) -> None:
    counts = asdict(changes)
    told = ", ".join(f"{name} {counts[name]}" for name in ("added", "changed", "removed", "unchanged"))
    missing = f"; {changes.missing} others are not in {args.source}: --delete removes them" if changes.missing else ""
    result = {"index": args.uri, "documents": n_documents, **counts, **more}
    print_result(args, result, f"{args.uri}: {n_documents} documents: {told}{missing}")


def _require_new(uri: str) -> None:
    from rabtriever.index.table import connect_to_empty

    uri = normalized_uri(uri)
    try:
        if is_remote(uri):
            connect_to_empty(uri)
        else:
            require_absent(uri)
    except ConflictError as error:
        raise ConflictError(f"{error}; --update adds documents to an index") from None
