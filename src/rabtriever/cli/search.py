"""Search an index."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from rabtriever.choices import MODES
from rabtriever.cli.arguments import add_index_arguments, open_index, print_result
from rabtriever.progress import is_shown

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
    parser.add_argument(
        "--refuse",
        type=float,
        metavar="SHARE",
        help="return nothing where nothing fits, but to this share of the requests that have an answer, at most",
    )
    parser.add_argument(
        "--history", action="append", metavar="TEXT", help="an earlier turn of the conversation; again for later ones"
    )
    parser.add_argument(
        "--used", action="append", metavar="ID", help="a document that was chosen already; again for later ones"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from rabtriever.index.search import SearchOptions

    names = ("k", "where", "mode", "rerank", "threshold", "refuse")
    options = asdict(SearchOptions(**{name: getattr(args, name) for name in names}))  # checked before a model is loaded
    index = open_index(args)
    context = {"history": args.history, "used": args.used}
    hits = index.search(args.query, **options, **context, show_progress_bar=is_shown())
    lines = [f"{rank:3d}  {hit.probability:6.1%}  {hit.id}  {hit.text}" for rank, hit in enumerate(hits, 1)]
    report = {"query": args.query, "hits": [asdict(hit) for hit in hits]}
    if hits.closest:
        report["closest"] = asdict(hits.closest)
        lines = [f"nothing fits; closest: {hits.closest.id}  {hits.closest.text}"]
    print_result(args, report, "\n".join(lines))
