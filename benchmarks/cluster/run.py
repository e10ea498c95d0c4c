"""What must hold past one machine, on this one: nodes, drivers and replicas that are killed, and what Ray costs.

Usage: python benchmarks/cluster/run.py [--quick] [--json] [--out FILE] [PART ...]

Each part runs in a process of its own. ``--json`` ends with one line. ``--out`` keeps what was measured before of
parts that are not named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import machine

PARTS = ("faults", "overhead", "memory", "sharded", "train", "judge")
MEASURE = "import json, sys; from {part} import measure; print(json.dumps(measure({quick})))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="smaller corpora and fewer turns; under ten minutes")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    before = json.loads(args.out.read_text())["result"] if args.out and args.out.exists() and args.parts else {}
    result: dict[str, Any] = {**before}
    for part in args.parts or PARTS:
        started = time.perf_counter()
        found = measured(part, args.quick)
        result |= {**found, f"{part}_seconds": round(time.perf_counter() - started)}
        print(part, json.dumps(found), file=sys.stderr, flush=True)
    differences = [result[name] for name in ("workers_log_odds_diff", "shards_log_odds_diff") if name in result]
    result["max_log_odds_diff"] = max(differences, default=None)
    command = "python benchmarks/cluster/run.py" + " --quick" * args.quick + " --json"
    if args.out:
        args.out.write_text(json.dumps({"command": command, **machine(), "result": result}, indent=1) + "\n")
    if args.json:
        print(json.dumps(result))


def measured(part: str, quick: bool) -> dict[str, Any]:
    """Returns what a script's ``measure`` says, from a process of its own."""
    command = [sys.executable, "-c", MEASURE.format(part=part, quick=quick)]
    path = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    output = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, "PYTHONPATH": path}
    ).stdout
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    if part == "sharded":
        found["shards_log_odds_diff"] = found.pop("max_log_odds_diff")
    return found


if __name__ == "__main__":
    main()
