"""The figures of docs/results.md, as SVG files that the same results make equal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "rabtriever", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
from matplotlib import pyplot  # noqa: E402

OURS, OTHERS, GREY = "#c2410c", "#1d4ed8", "#6b7280"
LABEL = (6, -3)  # points from its mark
LOWER, HIGHER = (6, -14), (6, 3)  # of marks side by side
# system of systems.py -> (label, system of latency.py, where the label is)
POINTS = {
    "bm25": ("BM25", "bm25", LABEL),
    "minilm": ("MiniLM", "minilm", LABEL),
    "mpnet": ("mpnet", "mpnet", LABEL),
    "gemma": ("EmbeddingGemma", "gemma", LABEL),
    "minilm-fine-tuned": ("MiniLM fine-tuned, labels", "minilm", LOWER),
    "gemma-adapter": ("EmbeddingGemma + adapter, labels", "gemma", LABEL),
    "ours-teacher": ("ours, no labels", "tools", LABEL),
    "ours-labels": ("ours, labels", "tools", HIGHER),
}


def pareto(path: Path, quality: Callable[[str], float | None], ms: Mapping[str, float]) -> None:
    """Draws quality against milliseconds a query."""
    figure, axes = pyplot.subplots(figsize=(7, 3.8))
    for system, (label, measured, place) in POINTS.items():
        value = quality(system)
        if value is None or measured not in ms:
            continue
        color = OURS if system.startswith("ours") else OTHERS
        axes.plot(ms[measured], value, "o" if color == OURS else "s", color=color)
        axes.annotate(label, (ms[measured], value), xytext=place, textcoords="offset points", color=color)
    axes.set(xscale="log", xlabel="milliseconds a query, two CPU cores", ylabel="R@1, mean of four corpora")
    low, high = axes.get_xlim()
    axes.set_xlim(low * 0.9, high * 6)
    axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:g}"))
    _save(path, figure)


def requests(path: Path, corpora: Mapping[str, Any]) -> None:
    """Draws R@1 over the number of unlabelled requests."""
    figure, axes = pyplot.subplots(figsize=(6, 3.4))
    for corpus, color in (("hwu64", OTHERS), ("clinc150", OURS)):
        found = [job for name, job in corpora.items() if re.match(rf"none_{corpus}_minilm_gemma(_|$)", name)]
        points = sorted((job["requests"], job["mean"]) for job in found)
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=f"{corpus.upper()}: MiniLM, taught")
        axes.axhline(found[0]["encoders"]["gemma"], color=color, ls="--", lw=1, label="its teacher, EmbeddingGemma")
        axes.axhline(found[0]["runs"][0]["zero_shot"], color=color, ls=":", lw=1, label="MiniLM")
    axes.set(xscale="log", xlabel="requests without labels", ylabel="R@1")
    axes.legend(fontsize=7, ncol=2)
    axes.set_ylim(0.6, 0.95)
    axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    _save(path, figure)


def labels(path: Path, corpora: Mapping[str, Any]) -> None:
    """Draws R@1 over the number of labels, with a teacher and without."""
    figure, axes = pyplot.subplots(figsize=(6, 3.4))
    for teacher, label, color in (
        ("labels", "labels", OTHERS),
        ("gemma", "labels, and EmbeddingGemma's lists of 3,000 requests", OURS),
    ):
        counted = re.compile(rf"labels_hwu64_minilm_{teacher}_(\d+)_seeds=1")
        points = sorted((int(of[1]), job["mean"]) for name, job in corpora.items() if (of := counted.fullmatch(name)))
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=label)
    none = corpora["none_hwu64_minilm_gemma_3000"]
    axes.axhline(none["mean"], color=OURS, ls="--", lw=1, label="those lists, no labels")
    axes.axhline(none["runs"][0]["zero_shot"], color=GREY, ls=":", lw=1, label="MiniLM")
    axes.set(xscale="log", xlabel="labelled requests, HWU64 (64 documents)", ylabel="R@1")
    axes.legend(fontsize=7)
    axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    _save(path, figure)


def learning(path: Path, curves: Mapping[str, Any]) -> None:
    """Draws R@1 on later requests over the number of choices."""
    figure, axes = pyplot.subplots(figsize=(6, 3.4))
    for (name, steps), color in zip(curves.items(), (OTHERS, OURS, GREY, "#15803d"), strict=True):
        counts, recalls = [step["labels"] for step in steps], [step["after"] for step in steps]
        axes.plot([20, *counts], [steps[0]["before"], *recalls], "o-", color=color, label=name)
    axes.set(xscale="log", xlabel="choices, a tenth of them wrong (left: none)", ylabel="R@1 on later requests")
    axes.legend(fontsize=7)
    axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    _save(path, figure)


def elsewhere(
    path: Path,
    value: Callable[..., float | None],
    never: Sequence[str],
    unseen: Sequence[str],
    titles: Mapping[str, str],
) -> None:
    """Draws what the shipped model does on corpora and documents that it never saw."""
    figure, axes = pyplot.subplots(figsize=(8, 3.4))
    columns = [(name, "test") for name in never] + [(name, "test_unseen") for name in unseen]
    systems = {"minilm": GREY, "tools": OURS, "tools-rerank10": "#f59e0b", "gemma": OTHERS}
    for i, (system, color) in enumerate(systems.items()):
        heights = [value(system, corpus, split) or 0.0 for corpus, split in columns]
        axes.bar([x + 0.2 * i for x in range(len(columns))], heights, 0.2, label=system, color=color)
    axes.set_xticks([x + 0.3 for x in range(len(columns))])
    names = [titles[corpus] + (", new documents" if split != "test" else "") for corpus, split in columns]
    axes.set_xticklabels(names, rotation=40, ha="right", fontsize=7)
    axes.set_ylabel("R@1")
    axes.legend(fontsize=7)
    _save(path, figure)


def _save(path: Path, figure: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
