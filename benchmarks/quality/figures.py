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

OURS, OTHERS, GREY, TAUGHT = "#c2410c", "#1d4ed8", "#6b7280", "#15803d"
LABEL = (6, -3)  # points from its mark
LOWER, HIGHER = (6, -14), (6, 3)  # of marks side by side
# system of systems.py -> (label, system of latency.py, where the label is by milliseconds and by minutes)
POINTS = {
    "bm25": ("BM25", "bm25", LABEL, LABEL),
    "minilm": ("MiniLM", "minilm", LABEL, LOWER),
    "mpnet": ("mpnet", "mpnet", LABEL, HIGHER),
    "gemma": ("EmbeddingGemma", "gemma", LABEL, HIGHER),
    "minilm-fine-tuned": ("MiniLM fine-tuned, labels", "minilm", LOWER, LABEL),
    "gemma-adapter": ("EmbeddingGemma + adapter, labels", "gemma", LABEL, HIGHER),
    "ours-teacher": ("ours, no labels", "tools", LABEL, LOWER),
    "ours-labels": ("ours, labels", "tools", HIGHER, LOWER),
}


def pareto(
    path: Path, quality: Callable[[str], float | None], ms: Mapping[str, float], minutes: Mapping[str, float]
) -> None:
    """Draws quality against milliseconds a query and against minutes of training."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    for system, (label, measured, place, beside) in POINTS.items():
        value = quality(system)
        if value is None or measured not in ms:
            continue
        color = OURS if system.startswith("ours") else OTHERS
        for axes, x, offset in ((left, ms[measured], place), (right, minutes.get(system, 0.0), beside)):
            axes.plot(x, value, "o" if color == OURS else "s", color=color)
            axes.annotate(label, (x, value), xytext=offset, textcoords="offset points", color=color)
    left.set(xscale="log", xlabel="milliseconds a query", ylabel="R@1, mean of four corpora")
    right.set(xlabel="minutes of training, one core")
    right.set_xscale("symlog", linthresh=1)
    left.set(xlim=(2, 1500), ylim=(0.37, 0.97))
    right.set_xlim(-0.3, 8000)
    for axes in (left, right):
        axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:g}"))
    figure.tight_layout()
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
    """Draws R@1 over the number of labels: ours with a teacher and without, and the encoder fine-tuned."""
    figure, axes = pyplot.subplots(figsize=(6, 3.4))
    for pattern, label, color in (
        (r"labels_hwu64_minilm_labels_(\d+)_seeds=1", "ours, labels", OURS),
        (r"labels_hwu64_minilm_gemma_(\d+)_seeds=1", "ours, labels and EmbeddingGemma's 3,000 lists", TAUGHT),
        (r"fine-tuned_hwu64_minilm_(\d+)", "MiniLM fine-tuned by sentence-transformers, labels", OTHERS),
    ):
        counted = re.compile(pattern)
        points = sorted((int(of[1]), job["mean"]) for name, job in corpora.items() if (of := counted.fullmatch(name)))
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=label)
    none = corpora["none_hwu64_minilm_gemma_3000"]
    axes.axhline(none["mean"], color=TAUGHT, ls="--", lw=1, label="those lists, no labels")
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
