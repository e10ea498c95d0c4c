"""Threads that each compute with one core: torch's own threads would share every product and wait at its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import Any

import torch


class Workers:
    """A pool that grows to what a call asks for. Calls are queued whole, so none waits for another's threads."""

    def __init__(self) -> None:
        self.lock, self.pool, self.size = Lock(), ThreadPoolExecutor(1), 0

    def run(self, count: int, work: Callable[[int], Any]) -> list[Any]:
        """Run ``work(number)`` in ``count`` threads at once: they may wait for each other."""
        with self.lock:
            if count > self.size:
                old, self.pool, self.size = self.pool, started(count), count
                old.shutdown(wait=False)  # its calls go on to their ends
            futures = [self.pool.submit(work, number) for number in range(count)]
        return [future.result() for future in futures]


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work(number)`` in ``count`` threads at once: they may wait for each other.

    Args:
        count: Of threads; 1 runs it here.
        work: What to do; numbers begin at 0.

    Returns:
        What they returned, by number.
    """
    return [work(0)] if count == 1 else _workers.run(count, work)


def started(count: int, cores: int = 1) -> ThreadPoolExecutor:
    """A pool of so many threads, each of which computes with so many cores."""
    before, met = torch.get_num_threads(), Barrier(count + 1)
    pool = ThreadPoolExecutor(count, "rabtriever", initializer=_limit, initargs=(cores,))
    try:
        for _ in range(count):
            pool.submit(met.wait)
        met.wait()
    except BaseException:  # no more threads to be had
        met.abort()
        raise
    finally:
        torch.set_num_threads(before)  # torch takes the last word as everyone's default
    return pool


def _limit(cores: int) -> None:
    torch.get_num_threads()  # a thread's first word would else be taken back
    torch.set_num_threads(cores)


def _renew() -> None:
    global _workers
    _workers = Workers()


_workers = Workers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)  # a child has no threads
