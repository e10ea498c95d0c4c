"""Index a corpus with a retriever."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("corpus", help="corpus.jsonl, or a BEIR folder")
    parser.add_argument("--model", required=True, help="a folder of `rabtriever distill`")
    parser.add_argument("--out", required=True, metavar="URI", help="folder or object-store URI of the index")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from rabtriever.data import read_corpus
    from rabtriever.index import Index
    from rabtriever.retriever import Rabtriever

    documents = read_corpus(args.corpus)
    index = Index.build(args.out, Rabtriever.from_pretrained(args.model), documents, show_progress=True)
    if args.json:
        print(json.dumps({"index": args.out, "documents": len(index)}))
    else:
        print(f"{args.out}: {len(index)} documents; next: rabtriever search {args.out} QUERY")
