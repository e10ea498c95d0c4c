"""Work on a Ray cluster, item by item, through Ray Data."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from rabtriever.errors import InputError
from rabtriever.extras import needs

if TYPE_CHECKING:
    import ray.data

BLOCKS_PER_WORKER = 64  # a task does several items of very many: Ray would be busy with a task for each

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """What does the work.

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


def run_tasks(function: Callable[[Item], Result], items: Sequence[Item], n: int) -> Iterator[Result]:
    """Yields a function's results for the items, in any order; Ray repeats a task whose machine is lost.

    Args:
        function: An InputError of it is raised here.
        items: What it takes.
        n: Number of tasks at a time, about.
    """
    if not items:
        return
    with _quiet():
        yield from _results(_dataset(items, n).map(lambda row: _call(function, row["item"])))


def run_workers(
    worker: Callable[..., Callable[[Item], Result]], arguments: tuple[Any, ...], items: Sequence[Item], workers: Workers
) -> Iterator[Result]:
    """Yields what workers return for the items, in any order; those whose worker was lost are left out.

    Ray would run them again on the same worker, once that has been started anew, for which a smaller cluster may never
    have room. So the caller runs what is left again, with as many workers as there is room for then.

    Args:
        worker: Makes a worker, in its process; an InputError of it is raised here.
        arguments: It takes these.
        items: At least one.
        workers: How many, and what each needs.
    """
    n = workers.room()
    with needs("cluster"):
        import ray.data  # sets up its log, which is then quieted
    with _quiet():
        data = _dataset(items, n)
        data.context.max_errored_blocks = -1
        data = data.map_batches(
            _Worker,
            fn_constructor_args=(worker, arguments),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(n, len(items))),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
            max_restarts=0,
            max_task_retries=0,
        )
        yield from _results(data)


class _Worker:
    def __init__(self, worker: Callable[..., Callable[[Item], Result]], arguments: tuple[Any, ...]) -> None:
        self.worker: Callable[[Any], Any] | None = None
        try:
            self.worker = worker(*arguments)
        except InputError as error:
            self.fault = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([_call(self._work, batch["item"][0].as_py())])

    def _work(self, item: Any) -> Any:  # noqa: ANN401
        if self.worker is None:
            raise self.fault
        return self.worker(item)


def _call(function: Callable[[Item], Result], item: bytes) -> dict[str, bytes]:
    try:
        result: Result | InputError = function(pickle.loads(item))  # noqa: S301 - our own
    except InputError as error:
        result = error
    return {"result": pickle.dumps(result)}


def _results(data: ray.data.Dataset) -> Iterator[Any]:
    for row in data.iter_rows():
        result = pickle.loads(row["result"])  # noqa: S301 - our own
        if isinstance(result, InputError):
            raise result
        yield result


def _dataset(items: Sequence[Any], n: int) -> ray.data.Dataset:
    with needs("cluster"):
        import ray.data

    blocks = min(len(items), n * BLOCKS_PER_WORKER)
    data = ray.data.from_items([{"item": pickle.dumps(item)} for item in items], override_num_blocks=blocks)
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray Data from printing what the caller handles: lost workers."""
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
