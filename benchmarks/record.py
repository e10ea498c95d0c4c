"""Run a command that prints JSON and store its output with what is needed to repeat it.

Usage: python benchmarks/record.py OUT.json COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def main() -> None:
    out, *command = sys.argv[1:]
    started = time.perf_counter()
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    record = {
        # Folders by their names: their paths on one machine say nothing about another.
        "command": " ".join(Path(part).name if part.startswith("/") else part for part in command),
        "seconds": round(time.perf_counter() - started),
        **machine(),
        "result": json.loads(output),
    }
    Path(out).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: {json.dumps(record['result'])}", file=sys.stderr)


def machine() -> dict[str, object]:
    """Returns what the figures depend on besides the code."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "machine": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("rabtriever", "torch", "transformers") if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:  # a checkout on PYTHONPATH
        return False


def table(head: list[object], rows: list[list[object]]) -> list[str]:
    """Returns the lines of a table in Markdown, and an empty one."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines] + [""]


if __name__ == "__main__":
    main()
