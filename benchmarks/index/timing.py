"""Timing of calls that share a machine with others."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def time_calls(call: Callable[[int], Any], repeats: int) -> list[float]:
    """Returns the seconds of each call, after one to warm up."""
    return alternate({"": call}, repeats)[""]


def alternate(calls: dict[str, Callable[[int], Any]], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each call, taken by turns, so that other work on the machine meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(0)
    for i in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call(i)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def percentiles(seconds: list[float], queries: int = 1) -> dict[str, float]:
    """Returns the median and the 99th percentile in milliseconds a query."""
    return {
        "p50_ms": round(1e3 * float(np.median(seconds)) / queries, 4),
        "p99_ms": round(1e3 * float(np.quantile(seconds, 0.99)) / queries, 4),
    }


def recall(exact: list[Any], found: list[Any]) -> float:
    """Returns the mean share of each exact list that was found."""
    shares = [len(set(map(int, a)) & set(map(int, b))) / len(a) for a, b in zip(exact, found, strict=True)]
    return float(np.mean(shares))


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
