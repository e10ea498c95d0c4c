"""Index a corpus with a retriever, or bring an index up to date."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("corpus", help="corpus.jsonl, or a BEIR folder")
    parser.add_argument("--model", help="a folder of `rabtriever distill`; with --update, that of the index")
    parser.add_argument("--out", required=True, metavar="URI", help="folder or object-store URI of the index")
    parser.add_argument(
        "--update", action="store_true", help="the index is there: add new documents, replace those of known ids"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from rabtriever.data import read_corpus
    from rabtriever.errors import InputError
    from rabtriever.index import Index
    from rabtriever.retriever import Rabtriever

    documents = read_corpus(args.corpus)
    if not args.update and not args.model:
        raise InputError("--model: name the retriever that shall read the documents")
    retriever = Rabtriever.from_pretrained(args.model) if args.model else None
    if args.update:
        index = Index.open(args.out, retriever)
        index.upsert(documents, show_progress=True)
        index.optimize()
    else:
        assert retriever is not None
        index = Index.build(args.out, retriever, documents, show_progress=True)
    if args.json:
        print(json.dumps({"index": args.out, "documents": len(index)}))
    else:
        print(f"{args.out}: {len(index)} documents; next: rabtriever search {args.out} QUERY")
