"""Make docs/serve.md from benchmarks/results/serve.

Usage: python benchmarks/serve/report.py      (make results)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import table

ROOT = Path(__file__).parents[2]
RESULTS, DOCS = ROOT / "benchmarks" / "results" / "serve", ROOT / "docs"
PARTS = {"one": "1 client", "sixteen": "16 clients", "half": "half of what 16 clients get, arriving at random"}
STAGES = ("throughput", "p50_ms", "p99_ms", "queue_ms", "encode_ms", "scan_ms", "overhead_ms", "requests", "errors")


def main() -> None:
    runs = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in ("tools", "100000")}
    lines = [(DOCS / "serve.head.md").read_text().rstrip(), "", "## Measured", ""]
    machine = runs["tools"]
    lines += [
        f"{machine['machine']}, {machine['cores']} cores, which the client shares; `models/tools`. To make it again"
    ]
    lines += ["(`--quick`: a minute of mixed load, not ten):", ""]
    lines += ["    python benchmarks/serve/run.py --data BEIR_FOLDERS --work FOLDER --quick --json", ""]
    for run in runs.values():
        lines += _run(run)
    lines += [
        "`throughput_16_vs_1`: searches a second of 16 clients over those of one. `rss_growth`: memory at the end over"
    ]
    lines += ["that after warming up. `overhead_ms`: a search's time but for encoding and scan, of one client.", ""]
    wrk = (RESULTS / "wrk.txt").read_text().rstrip()
    lines += ["## wrk, on the 199 tools; one connection and sixteen take turns", "", "```", wrk, "```"]
    (DOCS / "serve.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print("docs/serve.md", file=sys.stderr)


def _run(run: dict[str, Any]) -> list[str]:
    lines = [f"### {run['documents']:,} documents", ""]
    lines += table(["", "value"], [[f"`{name}`", value] for name, value in run["summary"].items()])
    head = ["searches, each query once", *(stage.replace("_ms", ", ms") for stage in STAGES)]
    lines += table(head, [[label, *(run[part][stage] for stage in STAGES)] for part, label in PARTS.items()])
    mixed, killed = run["mixed"], run["killed"]
    counts = ", ".join(f"{count:,} {what}" for what, count in mixed["requests"].items())
    lines += [
        f"Mixed load, {mixed['seconds']} s: {counts}; {mixed['errors']} errors, {mixed['wrong']} wrong answers; "
        f"resident memory {mixed['rss_mb'][0]:,} MB after warming up, {mixed['rss_mb'][1]:,} MB at the end.",
        "",
        f"Killed with {killed['acknowledged']} writes acknowledged: {killed['stored']} stored, {killed['lost']} lost.",
        "",
    ]
    return lines


if __name__ == "__main__":
    main()
