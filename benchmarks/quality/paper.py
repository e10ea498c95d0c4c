"""Make docs/paper.md, its figures and benchmarks/results/quality.json from the jobs' result files.

Usage: python benchmarks/quality/paper.py      (make results)
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
QUALITY = ("R@1", "R@3", "MRR@10", "nDCG@10")
KEYS = (
    *("task", "split", "system", "objective", "predictor", "width", "policy", "teacher_calls", "n_queries"),
    *(*QUALITY, "seed", "device", "command"),
)
SIZES = {
    "gpu": ("Full size", "Trained and measured on one CUDA GPU."),
    "cpu": (
        "Reduced size",
        "Trained and measured on two shared CPU cores, with fewer labelled queries, steps and teacher calls than the\n"
        "method deserves: compare systems within a table, not tables with published figures.",
    ),
}
PLAIN = {"policy", "teacher_calls", "seed"}  # what a curve of question 4 varies
Row = dict[str, Any]


def main() -> None:
    records = {size: _records(size) for size in SIZES}
    rows = [_flat(record, row) for found in records.values() for record in found.values() for row in record["rows"]]
    (RESULTS / "quality.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = (DOCS / "paper.head.md").read_text(encoding="utf-8")
    for size, found in records.items():
        if found:
            text += "\n".join(["", f"## {SIZES[size][0]}", SIZES[size][1], "", *_sections(size, found)])
    (DOCS / "paper.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    print(f"{len(rows)} rows: benchmarks/results/quality.json, docs/paper.md", file=sys.stderr)


def _records(size: str) -> dict[str, dict[str, Any]]:
    files = sorted((RESULTS / "quality" / size).glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def _flat(record: dict[str, Any], row: Row) -> Row:
    return {key: row.get(key, record.get(key)) for key in KEYS} | {"size": record["size"], "job": record["job"]}


def _sections(size: str, records: dict[str, dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    systems = {name: record for name, record in records.items() if name.startswith("systems-")}
    for record in systems.values():
        lines += [f"### {_title(record['rows'][0])}", "", *_systems(record), *_source(size, record)]
    if systems:
        lines += ["### Calibration: does probability mean probability?", "", *_calibration(systems), ""]
    for stem, draw in {
        "losses": _variants,
        "predictors": _variants,
        "policies": _policies,
        "teacher": _teachers,
        "students": _students,
        "agreement": _students,
    }.items():
        for name, record in records.items():
            if name.startswith(f"{stem}-") and record["rows"]:
                lines += [f"### {name}", "", *draw(size, name, record), *_source(size, record)]
    return lines


def _title(row: Row) -> str:
    return f"{row['task']}, {row['split']}: {row['n_queries']} queries, {row['candidates']}"


def _systems(record: dict[str, Any]) -> list[str]:
    columns = ["R@1", "R@3", "R@10", "MRR@10", "nDCG@10"]
    extra = {"fidelity": "fidelity_R@1", "top-1 agreement": "top1_agreement", "Pearson": "pearson"}
    extra |= {"R@1 - bi-encoder": "over_biencoder", "p": "p"}
    extra = {label: key for label, key in extra.items() if any(key in row for row in record["rows"])}
    lines = [_line(["system", "objective", "teacher calls", *columns, *extra]), _rule(3, len(columns) + len(extra))]
    for row in sorted(record["rows"], key=lambda row: -row["R@1"]):
        values = [_number(row.get(column)) for column in (*columns, *extra.values())]
        if "p" in row and row["p"] < 0.0005:
            values[-1] = "< 0.001"
        lines.append(_line([row["system"], row.get("objective", ""), _count(row.get("teacher_calls")), *values]))
    return lines


def _calibration(systems: dict[str, dict[str, Any]]) -> list[str]:
    columns = ["ece_first_raw", "ece_first_fitted", "ece_ten_raw", "ece_ten_fitted", "absent_auroc"]
    heads = ["first hit, raw", "first hit, fitted", "ten best, raw", "ten best, fitted", "right document absent, AUROC"]
    lines = [
        "Expected calibration error (15 bins) of the first hit and of the ten best; *fitted*: with the temperature and",
        "offset that are saved with the model, fitted on development queries. AUROC: how well the best log-odds of a",
        "request tell a corpus that holds its right document from the same corpus without it.",
        "",
        _line(["task", "split", "queries", "system", *heads]),
        _rule(4, 5),
    ]
    for record in systems.values():
        for row in record["rows"]:
            if "absent_auroc" in row:
                start = [row["task"], row["split"], str(row["n_queries"]), row["system"]]
                lines.append(_line([*start, *(_number(row.get(column)) for column in columns)]))
    return lines


def _variants(size: str, name: str, record: dict[str, Any]) -> list[str]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in record["rows"]:
        label = f"{row['objective']}|{row['predictor']} {row['width']}, {row['variant'].get('pooling', 'mean')}"
        grouped[f"{label}|{row['teacher_calls']:,}"].append(row)
    lines = [_line(["objective", "predictor, state", "teacher calls", "seeds", *QUALITY]), _rule(3, 5)]
    for label, rows in grouped.items():
        lines.append(_line([*label.split("|"), str(len(rows)), *(_spread(rows, column) for column in QUALITY)]))
    first = record["rows"][0]
    return [
        f"{first['task']}, {first['split']}, {first['n_queries']} queries; mean ± sample deviation over seeds.",
        "",
        *lines,
    ]


def _policies(size: str, name: str, record: dict[str, Any]) -> list[str]:
    curves: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    plain = [row for row in record["rows"] if row["variant"].keys() <= PLAIN]
    for row in plain:
        budget = row["variant"].get("teacher_calls", row["teacher_calls"])
        curves[row["policy"]][budget].append(row)
    budgets = sorted({budget for curve in curves.values() for budget in curve})
    _figure(DOCS / "figures" / f"{name}-{size}.svg", curves)
    lines = [_line(["policy", *(f"{budget:,} calls" for budget in budgets)]), _rule(1, len(budgets))]
    for policy, curve in curves.items():
        lines.append(_line([policy, *(_spread(curve[b], "R@1") if curve[b] else "" for b in budgets)]))
    first = record["rows"][0]
    head = (
        f"R@1 on {first['task']}, {first['split']}, {first['n_queries']} queries; mean ± sample deviation over seeds."
    )
    lines += ["", f"![R@1 against teacher calls](figures/{name}-{size}.svg)", ""]
    changed: dict[str, list[Row]] = defaultdict(list)
    for row in record["rows"]:
        if row not in plain:
            what = {key: value for key, value in row["variant"].items() if key not in PLAIN}
            label = ", ".join(f"{key} {value}" for key, value in what.items())
            changed[f"{row['policy']}|{label}|{_count(row['variant']['teacher_calls'])}"].append(row)
    if changed:
        lines += [_line(["policy", "changed", "teacher calls", "seeds", "R@1"]), _rule(2, 3)]
    for label, rows in changed.items():
        lines.append(_line([*label.split("|"), str(len(rows)), _spread(rows, "R@1")]))
    return [head, "", *lines]


def _students(size: str, name: str, record: dict[str, Any]) -> list[str]:
    columns = [*QUALITY, *(["pearson"] if any("pearson" in row for row in record["rows"]) else [])]
    lines = [_line(["task", "split", "queries", "system", "objective", "teacher calls", *columns])]
    lines.append(_rule(5, 1 + len(columns)))
    for row in record["rows"]:
        start = [row["task"], row["split"], str(row["n_queries"]), row["system"], row["objective"]]
        lines.append(_line([*start, _count(row["teacher_calls"]), *(_number(row.get(column)) for column in columns)]))
    return lines


def _teachers(size: str, name: str, record: dict[str, Any]) -> list[str]:
    lines = [_line(["task", "split", "queries", "objective", "R@1", "R@3", "MRR@10"]), _rule(4, 3)]
    for row in record["rows"]:
        values = [_number(row[column]) for column in ("R@1", "R@3", "MRR@10")]
        lines.append(_line([row["task"], row["split"], str(row["n_queries"]), row["objective"], *values]))
    return lines


def _figure(path: Path, curves: dict[str, dict[int, list[Row]]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rabtriever"  # the same rows give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    for policy, curve in curves.items():
        budgets = sorted(curve)
        values = [[row["R@1"] for row in curve[budget]] for budget in budgets]
        means = [statistics.mean(some) for some in values]
        spread = [statistics.stdev(some) if len(some) > 1 else 0.0 for some in values]
        axes.errorbar(budgets, means, yerr=spread, marker="o", capsize=3, label=policy)
    axes.set(xscale="log", xlabel="teacher calls", ylabel="R@1")
    axes.set_xticks(sorted({b for curve in curves.values() for b in curve}), minor=False)
    axes.get_xaxis().set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()
    axes.legend(title="policy")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def _source(size: str, record: dict[str, Any]) -> list[str]:
    file = f"[{record['job']}.json](../benchmarks/results/quality/{size}/{record['job']}.json)"
    return ["", f"{file}: `{record['command']}`, {record['seconds']:,} s, {record['machine']}.", ""]


def _spread(rows: list[Row], column: str) -> str:
    values = [row[column] for row in rows]
    mean = _number(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {_number(statistics.stdev(values))}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(texts: int, numbers: int) -> str:
    return _line(["---"] * texts + ["---:"] * numbers)


if __name__ == "__main__":
    main()
