"""Work off the queue of quality experiments, resuming where it stopped; each job leaves a file of rows.

Usage: python benchmarks/quality/work.py --data FOLDER --work FOLDER --size cpu|gpu [--jobs PATTERN] [--minutes M]

--data holds BEIR folders, --work the models that are made; rows go to --out, else to
benchmarks/results/quality/SIZE.
With --minutes no piece outlives that time: when the same command is given again, training goes on from its last
checkpoint and a list of students from its last row.
"""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", choices=("cpu", "gpu"), required=True)
    parser.add_argument("--jobs", default="*", help="names to work on, as a shell pattern")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help="print names and whether they are done")
    args = parser.parse_args()
    args.out = args.out or HERE.parent / "results" / "quality" / args.size
    from quality.jobs import jobs

    todo = jobs(args.size)
    if args.one:
        from quality.experiments import run

        return run(next(job for job in todo if job.name == args.one), args)
    failed = False
    deadline = time.monotonic() + 60 * args.minutes
    for job in todo:
        if not fnmatch.fnmatch(job.name, args.jobs):
            continue
        done = job.done(args)
        if args.list or done:
            print(f"{'done' if done else 'open'}  {job.name}", flush=True)
            continue
        left = deadline - time.monotonic()
        if left < 20:
            return print(f"time is up before {job.name}", flush=True)
        started = time.monotonic()
        again = [sys.executable, __file__, "--data", args.data, "--work", args.work, "--out", args.out]
        try:
            code = subprocess.run([*again, "--size", args.size, "--one", job.name], timeout=left).returncode
        except subprocess.TimeoutExpired:
            return print(f"time is up in {job.name}; the same command goes on", flush=True)
        failed |= code != 0
        print(f"{'made' if code == 0 else 'FAILED'}  {job.name}  {time.monotonic() - started:.0f} s", flush=True)

    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
