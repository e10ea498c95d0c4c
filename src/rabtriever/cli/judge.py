"""Judge teachers on a few pairs before many are paid for: quality, calibration, time and cost; or score many pairs."""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from rabtriever.cli import arguments
from rabtriever.errors import InputError
from rabtriever.progress import is_shown

if TYPE_CHECKING:
    import numpy as np

    from rabtriever.data import RetrievalData
    from rabtriever.encoders.base import Encoder
    from rabtriever.evaluation.judge import Candidates

REPORT_QUERIES = 50
SHOWN_FAILURES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("data", help="BEIR folder; without qrels only agreement, mass and time are reported")
    arguments.add_teacher_arguments(parser, required=True)
    encoder_help = "what the retriever starts from: minilm, mpnet, a hub id or a folder (default: minilm)"
    parser.add_argument("--encoder", default="minilm", help=encoder_help)
    split_help = "which qrels (default: dev, held out of train where there is none, else test)"
    parser.add_argument("--split", help=split_help)
    parser.add_argument(
        "--queries-limit",
        type=int,
        default=REPORT_QUERIES,
        metavar="N",
        help=f"queries to read (default: {REPORT_QUERIES}); with --out, 0 scores all and reports on {REPORT_QUERIES}",
    )
    parser.add_argument(
        "--depth", type=int, default=8, metavar="N", help="the encoder's best documents of each to read (default: 8)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of queries (default: 0)")
    out_help = "folder or URI where scores are kept, for `rabtriever distill --scores`; the same command goes on"
    parser.add_argument("--out", metavar="URI", help=out_help)
    pairs_help = "score these pairs: a query's and a document's id a line, with a tab between, or JSONL"
    parser.add_argument("--pairs", metavar="FILE", help=pairs_help)
    arguments.add_model_arguments(parser, "score a retriever's best documents instead of the encoder's")
    arguments.add_worker_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    _check(args)
    from rabtriever.data import load_data
    from rabtriever.data.pairs import read_pairs
    from rabtriever.evaluation.sample import draw_sample

    data = load_data(args.data)
    limit = (args.out and args.queries_limit == 0 and REPORT_QUERIES) or args.queries_limit
    sample = draw_sample(data, args.split, limit, args.depth, args.seed)  # checked before a model is loaded
    pairs = read_pairs(args.pairs, data) if args.pairs else None
    from rabtriever.encoders.sentence import SentenceEncoder
    from rabtriever.evaluation.judge import find_candidates, make_report

    encoder = SentenceEncoder.from_pretrained(args.encoder, device=args.device)
    with _connected(args):
        teachers = _load_teachers(args)
        candidates = find_candidates(sample, encoder, is_shown())
        if not args.out:
            report = make_report(candidates, teachers, is_shown())
        else:
            from rabtriever.evaluation.score_pairs import judge_into
            from rabtriever.rerankers.store import ScoreStore

            if pairs is None:
                pairs = _best_pairs(args, data, candidates, encoder)
            report = judge_into(ScoreStore(args.out), data, candidates, teachers, pairs, is_shown())
    arguments.print_result(args, report, format_report(report, args.encoder))
    return _tell_failures(report)


def _check(args: argparse.Namespace) -> None:
    arguments.require_ray(args)
    if not args.out:
        for flag in ("pairs", "model", "ray"):
            if getattr(args, flag) is not None:
                raise InputError(f"--{flag}: belongs to --out, where scores are kept; give that, too", param=flag)
    if args.pairs and args.model:
        raise InputError("--pairs and --model: both say what is scored; give one of them", param="pairs")


def _connected(args: argparse.Namespace) -> AbstractContextManager[None]:
    if not args.ray:
        return nullcontext()
    from rabtriever.cluster.session import connected

    return connected(args.ray)


def _load_teachers(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the teachers by name; with ``--out``, scorers for those that read pairs."""
    from rabtriever.evaluation.score_pairs import LocalScorer
    from rabtriever.teachers import is_encoder, load_teacher, teacher_kind

    loading = arguments.load_options(args)
    options = {**loading, **arguments.teacher_options(args)}
    teachers: dict[str, Any] = {}
    for name in args.teacher:
        if args.ray and teacher_kind(name, **loading) != "encoder":
            from rabtriever.cluster.judge import RayScorer
            from rabtriever.cluster.running import Workers

            teachers[name] = RayScorer(name, options, Workers(**arguments.worker_options(args)))
            continue
        teacher = load_teacher(name, **options)
        teachers[name] = LocalScorer(name, teacher) if args.out and not is_encoder(teacher) else teacher
    return teachers


def _best_pairs(args: argparse.Namespace, data: RetrievalData, candidates: Candidates, encoder: Encoder) -> np.ndarray:
    from rabtriever.evaluation.best_pairs import best_by_encoder, best_by_retriever

    queries = candidates.sample.ids
    if args.queries_limit == 0:
        queries = list(data.labelled_queries(args.split) if args.split else data.queries)
    if not args.model:
        return best_by_encoder(data, encoder, candidates.embeddings, queries, args.depth)
    from rabtriever.retriever import Rabtriever

    retriever = Rabtriever.from_pretrained(args.model, **arguments.load_options(args))
    return best_by_retriever(data, retriever, queries, args.depth, is_shown())


def _tell_failures(report: dict[str, Any]) -> int:
    """Prints the pairs that no score was got for; returns the exit code."""
    failed = report.get("scores", {}).get("failed", [])
    for one in failed[:SHOWN_FAILURES]:
        pair = f"query {one['query']!r} and document {one['document']!r}"
        print(f"rabtriever judge: {one['teacher']}: {pair} left out: {one['fault']}", file=sys.stderr)
    if len(failed) > SHOWN_FAILURES:
        print(f"rabtriever judge: and {len(failed) - SHOWN_FAILURES} more pairs; --json names all", file=sys.stderr)
    return int(bool(failed))


def format_report(report: dict[str, Any], encoder: str) -> str:
    """Returns what :func:`rabtriever.evaluation.judge.judge` returned as a table."""
    labels = (
        f"{report['n_queries']} queries of {report['split']}"
        if report["split"]
        else f"{report['n_queries']} unlabelled queries"
    )
    names = [encoder, *report["teachers"], *["all together"] * ("all" in report)]
    width = max(map(len, names)) + 2
    columns = {
        "R@1": ("R@1", ".3f"),
        "fused": ("R@1_fused", ".3f"),
        "calibration": ("calibration_error", ".3f"),
        "(fused)": ("calibration_error_fused", ".3f"),
        "mass": ("choice_mass", ".3f"),
        "ms/pair": ("ms_per_pair", ".1f"),
        "cost/pair": ("cost_per_pair", ".2g"),
    }
    rows = [report["encoder"], *report["teachers"].values(), report.get("all", {})]
    lines = [
        f"{labels}, the best {report['depth']} documents of {encoder}",
        " " * width + "".join(f"{column:>12s}" for column in columns),
    ]
    for name, row in zip(names, rows, strict=False):
        cells = ((row.get(key), shape) for key, shape in columns.values())
        lines.append(f"{name:{width}s}" + "".join(f"{'-' if v is None else format(v, s):>12s}" for v, s in cells))
    if report["encoder"]["R@depth"] is not None:
        lines.append(f"R@{report['depth']} of {encoder}: {report['encoder']['R@depth']:.3f}")
    shares = (f"{pair['a']} / {pair['b']} {pair['share']:.2f}" for pair in report["agreement"])
    lines.append("same first document: " + ", ".join(shares))
    if "scores" in report:
        scores = report["scores"]
        lines.append(f"{scores['uri']}: scores of {scores['pairs']} pairs, {scores['new']} of them new")
    return "\n".join(lines)
