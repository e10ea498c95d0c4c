"""Parts of work on a Ray cluster, by Ray Data."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rabtriever.cluster.parts import Part
from rabtriever.errors import InputError
from rabtriever.extras import needs

if TYPE_CHECKING:
    import ray.data

BLOCKS_PER_WORKER = 64  # of parts that one task does: a hundred thousand tasks of one each would keep Ray busy


@dataclass(frozen=True)
class Workers:
    """What encodes.

    Attributes:
        n: Number of workers, each with a model; None: as many as the cluster has room for.
        cpus: Cores of each.
        gpus: GPUs of each, also a fraction.
    """

    n: int | None = None
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        for name, value, least in (("n", self.n, 1), ("cpus", self.cpus, 0), ("gpus", self.gpus, 0)):
            if value is not None and value < least:
                raise InputError(f"workers: {name} is {value}; give {least} or more", param=name)

    def room(self) -> int:
        """Returns how many of them the cluster can run now.

        Raises:
            InputError: none.
        """
        import ray

        held = ray.cluster_resources()
        asked = {name: value for name, value in (("CPU", self.cpus), ("GPU", self.gpus)) if value}
        room = min((int(held.get(name, 0) / value) for name, value in asked.items()), default=self.n or 1)
        if not room:
            wanted = f"{self.cpus:g} cores and {self.gpus:g} GPUs"
            raise InputError(f"--ray: the cluster has no room for a worker of {wanted}; ask for less or add machines")
        return min(room, self.n or room)


def run_tasks(function: Callable[[Any], dict[str, Any]], items: Sequence[Any], n: int) -> Iterator[dict[str, Any]]:
    """Yields a function's results for the items, in any order; Ray repeats a task whose machine is lost."""
    if not items:
        return
    with _quiet():
        data = _dataset(items, n).map(lambda row: function(pickle.loads(row["item"])))  # noqa: S301 - our own
        yield from data.iter_rows()


def run_workers(
    worker: type, arguments: tuple[Any, ...], parts: Sequence[Part], workers: Workers
) -> Iterator[dict[str, Any]]:
    """Yields what workers return for the parts, in any order; parts whose worker was lost are left out.

    Ray would run them again on the same worker, once that has been started anew, for which a smaller cluster may never
    have room. So the caller runs what is left again, with as many workers as there is room for then.
    """
    import ray

    n = workers.room()
    with _quiet():
        data = _dataset(parts, n)
        data.context.max_errored_blocks = -1
        data = data.map_batches(
            _OnParts,
            fn_constructor_args=(worker, arguments),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(n, len(parts))),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
            max_restarts=0,
            max_task_retries=0,
        )
        yield from data.iter_rows()


class _OnParts:
    """Calls a worker with each row's part."""

    def __init__(self, worker: type, arguments: tuple[Any, ...]) -> None:
        self.worker = worker(*arguments)

    def __call__(self, batch: pa.Table) -> pa.Table:
        part = pickle.loads(batch["item"][0].as_py())  # noqa: S301 - our own
        return pa.Table.from_pylist([self.worker(part)])


def _dataset(items: Sequence[Any], n: int) -> ray.data.Dataset:
    import ray.data

    blocks = min(len(items), n * BLOCKS_PER_WORKER)
    data = ray.data.from_items([{"item": pickle.dumps(item)} for item in items], override_num_blocks=blocks)
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray Data from printing what the caller handles: lost workers."""
    with needs("cluster"):
        import ray.data  # noqa: F401 - which sets the levels
    loggers = [logging.getLogger(name) for name in ("ray.data", "ray")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # max_restarts is to get a name of its own
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
