"""Print what an index holds: documents, model, bytes, versions."""

from __future__ import annotations

import argparse

from rabtriever.cli.arguments import print_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("uri", help="an index of `rabtriever index`")
    parser.add_argument("--versions", action="store_true", help="list every version that can be opened")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from rabtriever.index import Index

    index = Index.open(args.uri)
    if args.versions:
        versions = index.versions()
        lines = [f"{v['version']:6d}  {v['time'][:19]}  {v['documents']} documents" for v in versions]
        return print_result(args, versions, "\n".join(lines))
    info = index.info()
    print_result(args, info, "\n".join(f"{name:15s} {value}" for name, value in info.items()))
