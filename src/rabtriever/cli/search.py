"""Search an index."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rabtriever.choices import MODES
from rabtriever.cli.arguments import add_index_arguments, open_index, print_result

MODE_HELP = (
    "exact; ann: approximate; auto: exact for up to so many documents; bm25: its ranking; encoder: that of the encoder "
    "alone (default: auto)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_index_arguments(parser)
    parser.add_argument("query", help="what to search for")
    parser.add_argument("-k", type=int, default=10, help="hits to return (default: 10)")
    parser.add_argument("--where", help="SQL filter over the documents' columns, e.g. \"title LIKE 'A%%'\"")
    parser.add_argument("--mode", choices=MODES, default="auto", help=MODE_HELP)
    parser.add_argument("--rerank", type=int, metavar="N", help="let the reranker score the best N")
    parser.add_argument("--threshold", type=float, metavar="P", help="least probability of a hit")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from rabtriever.index.search import SearchOptions

    names = ("k", "where", "mode", "rerank", "threshold")
    options = asdict(SearchOptions(**{name: getattr(args, name) for name in names}))  # checked before a model is loaded
    hits = open_index(args).search(args.query, **options)
    lines = [f"{rank:3d}  {hit.probability:6.1%}  {hit.id}  {hit.text}" for rank, hit in enumerate(hits, 1)]
    print_result(args, {"query": args.query, "hits": [asdict(hit) for hit in hits]}, "\n".join(lines))
