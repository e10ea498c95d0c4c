"""Judge teachers on a few pairs before many are paid for: quality, calibration, time and cost."""

from __future__ import annotations

import argparse
from typing import Any

from rabtriever.cli import arguments
from rabtriever.progress import is_shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("data", help="BEIR folder; without qrels only agreement, mass and time are reported")
    arguments.add_teacher_arguments(parser, required=True)
    encoder_help = "what the retriever starts from: minilm, mpnet, a hub id or a folder (default: minilm)"
    parser.add_argument("--encoder", default="minilm", help=encoder_help)
    split_help = "which qrels (default: dev, held out of train where there is none, else test)"
    parser.add_argument("--split", help=split_help)
    parser.add_argument("--queries-limit", type=int, default=50, metavar="N", help="queries to read (default: 50)")
    parser.add_argument(
        "--depth", type=int, default=8, metavar="N", help="the encoder's best documents of each to read (default: 8)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of queries (default: 0)")
    arguments.add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from rabtriever.data import load_data
    from rabtriever.evaluation.sample import draw_sample

    data = load_data(args.data)
    draw_sample(data, args.split, args.queries_limit, args.depth, args.seed)  # checked before a model is loaded
    from rabtriever.encoders.sentence import SentenceEncoder
    from rabtriever.evaluation.judge import judge
    from rabtriever.teachers import load_teacher

    encoder = SentenceEncoder.from_pretrained(args.encoder, device=args.device)
    options = {**arguments.load_options(args), **arguments.teacher_options(args)}
    teachers = {name: load_teacher(name, **options) for name in args.teacher}
    report = judge(data, teachers, encoder, args.split, args.queries_limit, args.depth, args.seed, is_shown())
    arguments.print_result(args, report, format_report(report, args.encoder))


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
    return "\n".join([*lines, "same first document: " + ", ".join(shares)])
