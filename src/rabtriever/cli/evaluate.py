"""Evaluate systems on a BEIR folder: quality, latency, and the retriever's agreement with its reranker."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rabtriever.cli.arguments import (
    add_model_arguments,
    add_prompt_arguments,
    load_options,
    print_result,
    prompt_options,
)
from rabtriever.errors import InputError
from rabtriever.persistence.folder import require_absent
from rabtriever.progress import is_shown

if TYPE_CHECKING:
    from rabtriever.data import RetrievalData
    from rabtriever.evaluation import System
    from rabtriever.rerankers.base import Reranker
    from rabtriever.retriever import Rabtriever

SYSTEMS = ("bm25", "encoder", "retriever", "rerankN", "reranker")
RERANK_ALL_UP_TO = 500  # documents
RERANK_DEPTH = 100  # best hits that the reranker scores in a larger corpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("data", help="BEIR folder or zip")
    parser.add_argument(
        "--model", required=True, help="a retriever (tools, a folder or a hub id), or a reranker to evaluate it alone"
    )
    parser.add_argument("--split", default="test", help="which qrels (default: test)")
    parser.add_argument(
        "--systems",
        default="bm25,encoder,retriever",
        help=f"of {','.join(SYSTEMS)}; rerank10: the retriever's best ten, reranked; reranker: all documents "
        "(default: bm25,encoder,retriever)",
    )
    parser.add_argument("--limit", type=int, help="a sample of this many queries")
    parser.add_argument("--seed", type=int, default=0, help="of that sample (default: 0)")
    parser.add_argument(
        "--rerank-all-up-to",
        type=int,
        default=RERANK_ALL_UP_TO,
        metavar="N",
        help="largest corpus of which the reranker scores every document; of a larger one it scores the best "
        f"{RERANK_DEPTH} of the retriever, or of BM25 without one (default: {RERANK_ALL_UP_TO})",
    )
    outputs = parser.add_mutually_exclusive_group()
    outputs.add_argument("--runs", metavar="DIR", help="folder or URI for TREC runs")
    outputs.add_argument(
        "--report",
        metavar="DIR",
        help="new folder or URI for a page, figures with intervals, each query's result and runs",
    )
    add_prompt_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    names = args.systems.split(",")
    wrong = [name for name in names if name not in SYSTEMS and rerank_depth(name) is None]
    if wrong:
        raise InputError(f"--systems {wrong[0]!r}: choose from {', '.join(SYSTEMS)}", param="systems")
    from rabtriever.data import load_data
    from rabtriever.evaluation import evaluate

    if args.report:
        require_absent(args.report)
    data = load_data(args.data)
    data.labelled_queries(args.split, args.limit)  # checked before a model is loaded
    retriever: Rabtriever | None = None
    reranker: Reranker | None = None
    if set(names) - {"bm25", "reranker"}:
        from rabtriever.retriever import Rabtriever

        retriever = Rabtriever.from_pretrained(args.model, query_cache=0, **load_options(args))
    elif "reranker" in names:
        from rabtriever.rerankers.loading import load_reranker

        reranker = load_reranker(args.model, **load_options(args), **prompt_options(args))
    systems = make_systems(names, data, retriever, reranker, args.rerank_all_up_to)
    if args.report is None:
        report = evaluate(data, systems, args.split, args.limit, args.seed, args.runs, show_progress_bar=is_shown())
        return print_result(args, report, format_report(report))
    from rabtriever.evaluation.provenance import describe_command
    from rabtriever.evaluation.report import write_report

    if retriever and any(name == "reranker" or rerank_depth(name) for name in names):
        reranker = retriever.reranker
    report = write_report(
        args.report,
        data,
        systems,
        args.split,
        args.limit,
        args.seed,
        retriever=retriever,
        reranker=reranker,
        command=describe_command(["rabtriever", *args.argv]),
        show_progress_bar=is_shown(),
    )
    print_result(args, report, f"{format_report(report)}\nreport: {args.report.rstrip('/')}/report.html")


def rerank_depth(system: str) -> int | None:
    """Returns N of a system that is named ``rerankN``, else None."""
    found = re.fullmatch(r"rerank([1-9]\d*)", system)
    return int(found[1]) if found else None


def make_systems(
    names: Sequence[str],
    data: RetrievalData,
    retriever: Rabtriever | None,
    reranker: Reranker | None = None,
    rerank_all_up_to: int = RERANK_ALL_UP_TO,
) -> dict[str, System]:
    """Makes systems over a data set's documents, each a search of an index in memory.

    ``encoder`` is the retriever's encoder without what was learnt; it is left out where that has no similarity. Each
    system is asked for one hit more than the measures look at, as one may be the query's own document; retriever and
    reranker, if both are named, for all that the reranker scores, so that their log-odds can be compared. Without
    ``reranker``, the retriever's own is used.
    """
    from rabtriever.evaluation.lexical import lexical_index
    from rabtriever.evaluation.measures import MAX_CUTOFF
    from rabtriever.index import Index

    documents = list(data.documents.values())
    n_own = int(any(data.is_own_document(query, query) for query in data.queries))  # it costs no other its slot
    n_scored = len(documents) if len(documents) <= rerank_all_up_to else RERANK_DEPTH + n_own
    k = max(n_scored, MAX_CUTOFF + 1) if {"retriever", "reranker"} <= set(names) else MAX_CUTOFF + 1

    def build(of: Rabtriever) -> Index:
        return Index.build(None, of, documents, show_progress_bar=is_shown())

    systems: dict[str, System] = {}
    depths = {name: depth for name in names if (depth := rerank_depth(name))}
    if retriever and ("retriever" in names or depths):
        index = build(retriever)
        systems["retriever"] = partial(index.search, k=k)
        for name, depth in depths.items():
            systems[name] = partial(index.search, k=max(k, depth), rerank=depth)
    if retriever and "encoder" in names and retriever.encoder.has_similarity:
        systems["encoder"] = partial(build(type(retriever)(retriever.encoder, query_cache=0)).search, k=k)
    if {"bm25", "reranker"} & set(names):
        lexical = lexical_index(documents)
        systems["bm25"] = partial(lexical.search, k=k, mode="bm25")
    if "reranker" in names:
        reranker = reranker or (retriever.reranker if retriever else None)
        options: dict[str, Any] = {"k": k, "reranker": reranker, "rerank": n_scored}
        if n_scored == len(documents):
            systems["reranker"] = partial(lexical.search, mode="exact", **options)  # all documents, at no cost
        else:
            systems["reranker"] = partial(systems.get("retriever", systems["bm25"]), **options)
    return {name: systems[name] for name in names if name in systems}


def format_report(report: dict[str, Any]) -> str:
    """Returns what :func:`rabtriever.evaluation.evaluate` returned as a table."""
    measures = [name for name in next(iter(report["systems"].values())) if name != "R@1_interval"]
    own, lacking = report["own_documents_left_out"], report["judged_documents_not_in_corpus"]
    notes = [f"; {own} of them are documents, left out of their own hits"] if own else []
    notes += [f"; {lacking} judged documents are not in the corpus and count as not found"] if lacking else []
    lines = [
        "".join([f"{report['n_queries']} queries", *notes]),
        " " * 10 + "".join(f"{name:>14s}" for name in measures),
    ]
    for system, values in report["systems"].items():
        cells = [f"{values[name]:14.{1 if name == 'ms_per_query' else 3}f}" for name in measures]
        low, high = values["R@1_interval"]
        lines.append(f"{system:10s}" + "".join(cells) + f"   R@1 {low:.3f} to {high:.3f}")
    lines.append(f"ms_per_query: {report['timing']}; R@1's range: 95% of resampled queries")
    if report["fidelity"]:
        shares = (f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in report["fidelity"].items())
        lines.append("fidelity (retriever / reranker): " + ", ".join(shares))
    return "\n".join(lines)
