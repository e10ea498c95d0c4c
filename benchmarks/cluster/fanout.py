"""How long a query waits for the slowest of its shards: a simulation from one shard's measured times.

Usage: python benchmarks/cluster/fanout.py --constants FILE --out FILE

A shard's time is drawn from the times of one index's searches (``scale.py``), as multiples of their median. A query
takes as long as the slowest of S shards. *Hedged*: what has not answered by the 95th percentile of one shard's times is
asked of another replica, too, and the first answer counts. *Slow*: one replica of one shard takes five times as long.
Network and queues are no part of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

SHARDS = (1, 4, 16, 64, 256)
QUERIES, SLOWDOWN, HEDGE_AT = 100_000, 5.0, 95.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--constants", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    stores = json.loads(args.constants.read_text())["stores"]
    times = np.array(next(row["exact_ms"] for row in stores if "exact_ms" in row))
    rows = simulate(times / np.median(times))
    args.out.write_text(json.dumps({"queries": QUERIES, "samples": len(times), "rows": rows}, indent=1) + "\n")


def simulate(times: np.ndarray, queries: int = QUERIES) -> list[dict[str, float]]:
    """Returns percentiles of a query's time by number of shards, in multiples of a shard's median time."""
    rng, limit, rows = np.random.default_rng(0), float(np.percentile(times, HEDGE_AT)), []
    for shards in SHARDS:
        for slow in (False, True):
            plain, hedged, asked = np.zeros(queries), np.zeros(queries), 0
            for shard in range(shards):
                first, second = rng.choice(times, queries), rng.choice(times, queries)
                if slow and shard == 0:  # its slow replica gets half of the queries, the other the rest and the hedges
                    first = np.where(rng.random(queries) < 0.5, SLOWDOWN * first, first)
                late = first > limit
                asked += int(late.sum())
                plain = np.maximum(plain, first)
                hedged = np.maximum(hedged, np.where(late, np.minimum(first, limit + second), first))
            row: dict[str, float] = {"shards": shards, "slow": slow, "more_calls": asked / (shards * queries)}
            for name, values in (("plain", plain), ("hedged", hedged)):
                row |= {f"{name}_p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 99)}
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
