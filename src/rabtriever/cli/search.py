"""Search an index."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("uri", help="an index of `rabtriever index`")
    parser.add_argument("query", help="what is asked")
    parser.add_argument("-k", type=int, default=10, help="hits to return (default: 10)")
    parser.add_argument("--model", help="the retriever that made the index, if its folder has moved")
    parser.add_argument("--where", help="SQL filter over the documents' columns, e.g. \"title LIKE 'A%%'\"")
    parser.add_argument(
        "--mode", default="auto", help="auto, exact, ann: approximate, or bm25: its ranking alone (default: auto)"
    )
    parser.add_argument("--hybrid", help="join BM25's best documents: union (as candidates) or rrf (both rankings)")
    parser.add_argument("--rerank", type=int, metavar="N", help="let the reranker judge the best N")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from rabtriever.index import Index
    from rabtriever.retriever import Rabtriever

    retriever = Rabtriever.from_pretrained(args.model) if args.model else None
    options = {name: getattr(args, name) for name in ("k", "where", "rerank", "mode", "hybrid")}
    hits = Index.open(args.uri, retriever).search(args.query, **options)[0]
    if args.json:
        print(json.dumps({"query": args.query, "hits": [asdict(hit) for hit in hits]}, ensure_ascii=False))
        return
    for rank, hit in enumerate(hits, 1):
        print(f"{rank:3d}  {hit.probability:6.1%}  {hit.id}  {hit.text}")
