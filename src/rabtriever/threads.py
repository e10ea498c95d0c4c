"""Cores, and pools of threads that compute with some of them."""

from __future__ import annotations

import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from rabtriever.cgroups import cpu_quota


def _use_one_torch_thread() -> None:
    """Lets torch compute in a forked child: its own threads stayed with the parent, and an operation waits for them."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_torch_thread)


def available_cores() -> int:
    """Returns the number of cores that this process may use: in a container, as many as its quota fills."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(cpu_quota() or cores)))


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
