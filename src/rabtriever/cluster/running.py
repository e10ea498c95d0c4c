"""Work on a Ray cluster, item by item, through Ray Data."""

from __future__ import annotations

import logging
import math
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from rabtriever.errors import InputError, StorageError, TextError, first_line
from rabtriever.extras import needs

if TYPE_CHECKING:
    import ray.data

BLOCKS_PER_WORKER = 64  # a task does several items of very many: Ray would be busy with a task for each
IDLE_ROUNDS = 3  # in a row, in which workers did nothing of what is left
COLOR = re.compile(r"\x1b\[[0-9;]*m")  # in Ray's messages

Item = TypeVar("Item")
Result = TypeVar("Result")


class BrokenWorkerError(Exception):
    """A worker can do nothing more, such as one whose GPU failed: its process ends, and others do what it had."""


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
            if value is not None and not (math.isfinite(value) and value >= least):
                raise InputError(f"workers: {name} is {value}; give a number, {least} or more", param=name)

    def capacity(self) -> int:
        """Returns how many of them the cluster can run now, each on one machine.

        Raises:
            InputError: none.
        """
        import ray

        asked = {name: value for name, value in (("CPU", self.cpus), ("GPU", self.gpus)) if value}
        if not asked:
            return self.n or 1
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        n = sum(min(int(held.get(name, 0) / value) for name, value in asked.items()) for held in machines)
        if not n:
            wanted = f"{self.cpus:g} cores and {self.gpus:g} GPUs"
            raise InputError(f"--ray: the cluster has no room for a worker of {wanted}; ask for less or add machines")
        return min(n, self.n or n)


def run_tasks(
    function: Callable[[Item], Result], items: Sequence[Item], n: int, size: Workers | None = None
) -> Iterator[Result]:
    """Yields a function's results for the items, in any order; Ray repeats a task whose machine is lost.

    Args:
        function: Called in other processes.
        items: What it takes.
        n: Number of tasks at a time, about.
        size: What each needs; a core if None.

    Raises:
        InputError: what the function raised, in one line; or tasks ended, whatever Ray did.
    """
    if not items:
        return
    size = size or Workers()
    with _quiet():
        data = _dataset(items, n).map(lambda row: _call(function, row["item"]), num_cpus=size.cpus, num_gpus=size.gpus)
        try:
            for result in _results(data):
                if isinstance(result, _Failed):
                    raise result.error
                yield result
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"--ray: tasks ended ({_reason(error)}); see to the machines and run it again") from None


def run_workers(
    worker: Callable[..., Callable[[Item], Result]],
    arguments: tuple[Any, ...],
    left: Callable[[], Sequence[Item]],
    workers: Workers,
    name: Callable[[Item], str],
    place: str,
) -> Iterator[Result]:
    """Yields what workers return for items, in any order, until none is left.

    Each round starts workers, as many as there is room for, and ends when they have done, or are lost with, what was
    left. (Ray would run an item again on the same worker, once that is started anew, for which a smaller cluster may
    never have room.)

    Args:
        worker: Makes a worker, in its process.
        arguments: It takes these.
        left: Returns what is to do, in order.
        workers: How many, and what each needs.
        name: Names an item in messages.
        place: Where workers write what makes an item done.

    Raises:
        InputError: one of a worker, but no StorageError, which may pass; or :data:`IDLE_ROUNDS` in a row did nothing.
    """
    items, idle = left(), 0
    while items:
        reason, returned = "its worker ended", False
        try:
            for result in _round(worker, arguments, items, workers):
                if not isinstance(result, _Failed):
                    returned = True
                    yield result
                elif result.may_pass:
                    reason = str(result.error)
                else:
                    raise result.error
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 - Ray's, of workers that do not start
            reason = _reason(error)
        n, items = len(items), left()
        idle = idle + 1 if len(items) == n else 0
        if idle and returned:
            reason = f"workers ended without a record: {place} must be a folder that all machines see, or in a store"
        if idle == IDLE_ROUNDS:
            raise InputError(f"{name(items[0])}: failed {idle} times ({reason}); see to it and run again")


def _round(
    worker: Callable[..., Callable[[Item], Result]], arguments: tuple[Any, ...], items: Sequence[Item], workers: Workers
) -> Iterator[Any]:
    """Yields what workers return for the items; those of workers that end are left out."""
    n = workers.capacity()
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


@dataclass(frozen=True)
class _Failed:
    """Why there is no result, in one line, and whether another attempt may bring it."""

    error: InputError
    may_pass: bool


class _Worker:
    def __init__(self, worker: Callable[..., Callable[[Item], Result]], arguments: tuple[Any, ...]) -> None:
        self.broken = False
        try:
            self.worker: Callable[[Any], Any] = worker(*arguments)
        except Exception as error:  # noqa: BLE001 - Ray would wrap it in its own
            self.worker = _raiser(BrokenWorkerError(first_line(error)) if _may_pass(error) else error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.broken:  # the reason is told: what it was to do is left to others
            os._exit(1)
        return pa.Table.from_pylist([_call(self._work, batch["item"][0].as_py())])

    def _work(self, item: Any) -> Any:  # noqa: ANN401
        try:
            return self.worker(item)
        except BrokenWorkerError:
            self.broken = True
            raise


def _raiser(error: Exception) -> Callable[[Any], Any]:
    def fail(_: object) -> None:
        raise error

    return fail


def _call(function: Callable[[Item], Result], item: bytes) -> dict[str, bytes]:
    """Returns a function's result as bytes; of what it raises, what another process can read."""
    result: Any
    try:
        result = function(pickle.loads(item))  # noqa: S301 - our own
    except Exception as error:  # noqa: BLE001 - Ray would wrap it in its own
        told = isinstance(error, (InputError, BrokenWorkerError))
        kind = type(error) if isinstance(error, InputError) and not isinstance(error, TextError) else InputError
        result = _Failed(kind(str(error) if told else first_line(error)), _may_pass(error))
    return {"result": pickle.dumps(result)}


def _may_pass(error: Exception) -> bool:
    return isinstance(error, StorageError) or not isinstance(error, InputError)


def _results(data: ray.data.Dataset) -> Iterator[Any]:
    for row in data.iter_rows():
        yield pickle.loads(row["result"])  # noqa: S301 - our own


def _reason(error: Exception) -> str:
    return COLOR.sub("", first_line(error))


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
    """Keeps Ray Data from printing its progress, and what the caller handles: lost workers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # of single loggers Ray Data would set the levels anew
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # max_restarts is to get a name of its own
            yield
    finally:
        logging.disable(before)
