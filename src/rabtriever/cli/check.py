"""Check a catalogue in CI: is the right document found for each request, and which are confused?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from rabtriever.cli.arguments import (
    SOURCE_HELP,
    add_model_arguments,
    add_source_arguments,
    load_options,
    print_result,
    source_columns,
)
from rabtriever.errors import InputError
from rabtriever.progress import is_shown

SHOWN = 10  # lines of each list; --json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("catalogue", help=SOURCE_HELP)
    requests_help = "JSONL file: text and relevant, tools or tool a line, ids or names; [] if nothing fits"
    parser.add_argument("--requests", required=True, metavar="FILE", help=requests_help)
    parser.add_argument(
        "--min-recall5", type=float, metavar="SHARE", help="least R@5; below it the exit code is 1 (default: none)"
    )
    add_model_arguments(parser, "`tools`, a folder of `rabtriever distill`, a hub id or an encoder (default: tools)")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 1 if the catalogue does not pass."""
    if args.min_recall5 is not None and not 0 <= args.min_recall5 <= 1:
        raise InputError(f"--min-recall5 {args.min_recall5}: a share lies in [0, 1]; give such a one")
    from rabtriever.evaluation.labelled_requests import read_labelled_requests
    from rabtriever.sources import read_source

    documents = list(read_source(args.catalogue, **source_columns(args)))
    requests = read_labelled_requests(args.requests, documents)
    from rabtriever.evaluation.check import check_catalogue
    from rabtriever.retriever import Rabtriever

    retriever = Rabtriever.from_pretrained(args.model or "tools", **load_options(args))
    report = check_catalogue(documents, requests, retriever, show_progress_bar=is_shown())
    passed = args.min_recall5 is None or report["R@5"] >= args.min_recall5
    report |= {"min_recall5": args.min_recall5, "passed": passed}
    print_result(args, report, format_report(report))
    return 0 if passed else 1


def format_report(report: dict[str, Any]) -> str:
    """Returns a report of :func:`rabtriever.evaluation.check.check_catalogue` as text."""
    lines = [f"{report['documents']} documents, {report['requests']} requests"]
    for name in ("R@1", "R@5"):
        low, high = report[f"{name}_interval"]
        lines.append(f"{name}  {report[name]:.3f}   {low:.3f} to {high:.3f} in 95% of resampled requests")
    if report["min_recall5"] is not None:
        verdict = "passed" if report["passed"] else "NOT PASSED"
        lines.append(f"{verdict}: R@5 of at least {report['min_recall5']:g} was asked for")
    missed, confused, alike, nothing = (report[key] for key in ("missed", "confused", "alike", "nothing_fits"))
    lines += _section(f"first hit wrong: {len(missed)} of {report['answerable']} requests", map(_miss, missed))
    lines += _section(f"confused: {len(confused)} pairs", map(_confusion, confused))
    title = f"nearly the same text, and no request that tells them apart: {report['n_alike']} pairs"
    lines += _section(title, map(_pair, alike), report["n_alike"])
    if nothing["requests"]:
        refused = "the retriever cannot refuse" if nothing["refused"] is None else f"{nothing['refused']} refused"
        title = f"nothing fits: {nothing['requests']} requests, {refused}; what came closest to the others"
        lines += _section(title, map(_answer, nothing["answered"]))
    return "\n".join(lines)


def _section(title: str, entries: Iterable[str], total: int | None = None) -> list[str]:
    found = list(entries)
    more = (total or len(found)) - SHOWN
    shown = [f"  {entry}" for entry in found[:SHOWN]]
    return ["", title, *shown, *([f"  ... {more} more (--json)"] if more > 0 else [])]


def _miss(miss: dict[str, Any]) -> str:
    rank = f"rank {miss['rank']}" if miss["rank"] else "not among the first ten"
    return f"{miss['text']!r}: {miss['best']} is {rank}, first is {miss['first']} ({miss['probability']:.0%})"


def _confusion(pair: dict[str, Any]) -> str:
    right, first = pair["right"], pair["first"]
    words = {
        "asked for, and in neither text": pair["asked"],
        f"only in {right}": pair["only_right"],
        f"only in {first}": pair["only_first"],
    }
    return f"{pair['count']} x {first} instead of {right}{_words(words)}"


def _pair(pair: dict[str, Any]) -> str:
    words = {f"only in {one}": only for one, only in zip(pair["documents"], pair["only_in"], strict=True)}
    return f"{' and '.join(pair['documents'])}, similarity {pair['similarity']:.2f}{_words(words)}"


def _words(words: dict[str, Sequence[str]]) -> str:
    return "".join(f"\n      {where}: {', '.join(found)}" for where, found in words.items() if found)


def _answer(answer: dict[str, Any]) -> str:
    return f"{answer['text']!r}: {answer['closest']} ({answer['probability']:.0%})"
