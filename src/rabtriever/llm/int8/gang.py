"""Threads that compute together, each with one core; torch's own would share every product and wait at its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from rabtriever.threads import thread_pool


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


def run_in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Runs ``work(number)``, from 0 on, in ``count`` threads that may wait for each other; returns what they return.

    A single one is the caller's thread.
    """
    return [work(0)] if count == 1 else _gang.run(count, work)


def _renew() -> None:
    global _gang
    _gang = GangPool()


_gang = GangPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)  # a child has no threads
