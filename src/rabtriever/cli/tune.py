"""Let an index learn from what people chose, or go back."""

from __future__ import annotations

import argparse
from typing import Any

from rabtriever.cli.arguments import add_model_arguments, open_index, print_result
from rabtriever.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("uri", metavar="INDEX", help="folder of `rabtriever index`")
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="JSONL: query, id (chosen); optional shown, succeeded, time; default: its server's",
    )
    parser.add_argument("--rollback", action="store_true", help="go back to the version before")
    add_model_arguments(parser, "the retriever, if it is no longer where it was when the index was made")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.rollback and args.labels:
        raise InputError("--rollback: learns nothing; leave out --labels", param="rollback")
    if args.rollback:
        from rabtriever.index.learned import LearnedVersions
        from rabtriever.index.table import Table
        from rabtriever.persistence.folder import normalized_uri

        Table.open(args.uri)  # names what is wrong with it
        version = LearnedVersions(normalized_uri(args.uri)).rollback()
        text = f"{args.uri}: " + (f"learned version {version}" if version else "its retriever as it was saved")
        print_result(args, {"version": version}, text)
        return
    from rabtriever.data.feedback import read_feedback
    from rabtriever.index.feedback import FeedbackStore
    from rabtriever.training.tune import tune

    events = read_feedback(args.labels) if args.labels else FeedbackStore(args.uri).read()
    if not events:
        raise InputError(f"{args.uri}: its server has stored no feedback; give --labels", param="labels")
    report = tune(open_index(args), events)
    print_result(args, report, f"{args.uri}: {_summary(report)}")


def _summary(report: dict[str, Any]) -> str:
    """Returns what happened, in a line."""
    labels = f"labels: {report['labels']}, deciding: {report['decided']}"
    measured = f"R@1 {report['before']:.3f} -> {report['after']:.3f}, p {report['p']:.2g}"
    if report["version"] is None:
        return f"nothing taken, since nothing is better beyond chance ({labels}; {measured})"
    return f"learned version {report['version']} ({labels}; {measured}); --rollback goes back"
