"""Threads that each compute with one core: torch's own threads would share every product and wait at its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import Any

import torch

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = Lock()
os.register_at_fork(after_in_child=_pools.clear)  # a child has no threads


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work(number)`` in ``count`` threads at once: they may wait for each other.

    Args:
        count: Of threads; 1 runs it here.
        work: What to do; numbers begin at 0.

    Returns:
        What they returned, by number.
    """
    if count == 1:
        return [work(0)]
    with _lock:  # a call's threads stand in the queue side by side, so no two calls wait for each other's
        pool = _pools.get(count) or _start(count)
        futures = [pool.submit(work, number) for number in range(count)]
    return [future.result() for future in futures]


def _one_core() -> None:
    torch.get_num_threads()  # a thread's first word would else be taken back
    torch.set_num_threads(1)


def _start(count: int) -> ThreadPoolExecutor:
    before, started = torch.get_num_threads(), Barrier(count + 1)
    pool = ThreadPoolExecutor(count, "rabtriever", initializer=_one_core)
    for _ in range(count):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(before)  # torch takes the last word as everyone's default
    _pools[count] = pool
    return pool
