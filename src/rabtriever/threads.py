"""Cores, and pools of threads that compute with some of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_pool(n_threads: int, cores_each: int = 1) -> ThreadPoolExecutor:
    """Starts a pool whose threads each compute with ``cores_each`` cores in torch's operations.

    torch's own threads would share every operation and wait for each other at its end.
    """
    import torch

    default, started = torch.get_num_threads(), Barrier(n_threads + 1)

    def limit() -> None:
        torch.get_num_threads()  # torch initialises a thread at its first call, which would undo the limit
        torch.set_num_threads(cores_each)

    pool = ThreadPoolExecutor(n_threads, "rabtriever", initializer=limit)
    try:
        for _ in range(n_threads):
            pool.submit(started.wait)
        started.wait()
    except BaseException:  # the system gave no more threads
        started.abort()
        raise
    finally:
        torch.set_num_threads(default)  # the last call in any thread becomes the default of new ones
    return pool
