"""Threads that compute together, each with one core; torch's own would share every product and wait at its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
import torch

from rabtriever.threads import thread_pool

MIN_ROWS_PER_THREAD = 8
MAX_IMBALANCE = 1.15  # a thread's rows, relative to an equal share, up to which texts are not divided


class GangPool:
    """A pool that grows to what a call asks for. Calls are queued whole, so none waits for another's threads."""

    def __init__(self) -> None:
        self.lock, self.pool, self.size = Lock(), ThreadPoolExecutor(1), 0

    def run(self, count: int, work: Callable[[int], Any]) -> list[Any]:
        """Runs ``work(number)`` in ``count`` threads at once; returns the results by number."""
        with self.lock:
            if count > self.size:
                old, self.pool, self.size = self.pool, thread_pool(count), count
                old.shutdown(wait=False)  # its calls go on to their ends
            futures = [self.pool.submit(work, number) for number in range(count)]
        return [future.result() for future in futures]


def share_rows(ends: np.ndarray, work: Callable[[int, int, int, np.ndarray], Any]) -> list[Any]:
    """Shares the rows of packed texts among torch's number of threads; returns what each makes of its own, in order.

    Args:
        ends: int64 (texts + 1,), 0 and where each text ends.
        work: Called with a thread's first row, the end of its rows, how many threads share texts (1: a text's rows are
            in one thread), and a barrier, int64 (2,): arrivals, and whether a thread failed.
    """
    n_rows = int(ends[-1])
    threads = max(1, min(torch.get_num_threads(), n_rows // MIN_ROWS_PER_THREAD))
    cuts, sharing = _split_rows(ends, threads), 1
    if cuts is None:
        cuts, sharing = [n_rows * i // threads for i in range(threads + 1)], threads
    barrier = np.zeros(2, np.int64)

    def run(i: int) -> Any:  # noqa: ANN401
        try:
            return work(cuts[i], cuts[i + 1], sharing, barrier)
        except BaseException:
            barrier[1] = 1  # nobody waits for who will not come
            raise

    try:
        return run_in_threads(threads, run)
    except BaseException:  # an interruption: those who began need not wait for those who will not
        barrier[1] = 1
        raise


def run_in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Runs ``work(number)``, from 0 on, in ``count`` threads that may wait for each other; returns what they return.

    A single one is the caller's thread.
    """
    return [work(0)] if count == 1 else _gang.run(count, work)


def _split_rows(ends: np.ndarray, threads: int) -> list[int] | None:
    """Returns where threads' rows begin and end, if whole texts can be divided fairly; None if not.

    Then no thread waits for another.
    """
    ideal = ends[-1] / threads
    cuts = [int(ends[np.abs(ends - ideal * i).argmin()]) for i in range(threads + 1)]
    shares = np.diff(cuts)
    return cuts if shares.min() > 0 and shares.max() <= MAX_IMBALANCE * ideal else None


def _renew() -> None:
    global _gang
    _gang = GangPool()


_gang = GangPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)  # a child has no threads
