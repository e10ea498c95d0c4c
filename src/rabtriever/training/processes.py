"""Several processes of one training, as ``accelerate launch`` or ``torchrun`` starts them.

All run the same code on the same data and one file system; what only one does is in :func:`first`. A single process
does what it is asked alone, and connects to nothing.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rabtriever.errors import InputError, StorageError, first_line
from rabtriever.progress import hide

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=1)  # for another process's work; if one dies, the launcher ends all
GRACE_SECONDS = 5.0


def count() -> int:
    """Returns the number of processes."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1


def rank() -> int:
    """Returns the number of this process, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def start(device: str | None = None) -> None:
    """Connects the processes, each with a GPU of its own, which ``cuda`` then means; call it before models are loaded.

    Args:
        device: Where models are to be; one card for all is an InputError.
    """
    if count() == 1:
        return
    if device and ":" in device:
        raise InputError(
            f"device {device}: {count()} processes would share it; give cuda, each then takes a GPU of its own",
            param="device",
        )
    _connect()


def together(function: Callable[[], T]) -> list[T]:
    """Calls a function in every process; returns in each the results of all, by rank.

    If it raises in one, all raise, so that none waits for the others: what it raised there, elsewhere one line of it.
    """
    if count() == 1:
        return [function()]
    try:
        own = function()
    except Exception as error:
        said = f"process {rank()}: {error if isinstance(error, InputError) else first_line(error)}"
        _gather((None, InputError(said) if isinstance(error, InputError) else RuntimeError(said)))
        raise
    results: list[Any] = _gather((own, None))
    for fault in (fault for _, fault in results if fault is not None):
        raise fault
    return [result for result, _ in results]


def first(function: Callable[[], T]) -> T:
    """Calls a function in the first process alone; returns its result, or raises, in every process."""
    return together(function if rank() == 0 else lambda: None)[0]  # type: ignore[return-value]


def shared(function: Callable[[], Iterable[Path]]) -> list[Path]:
    """Lets the first process say which files there are, or make them; returns them when every process sees them.

    A network file system may show them late, and a process that looked for itself would go another way.
    """
    paths = first(lambda: list(function()))
    together(lambda: require_shared(*paths))
    return paths


def agree(value: T) -> T:
    """Returns the first process's value, where others may have rounded otherwise and would go another way."""
    return first(lambda: value)


def wait() -> None:
    """Waits until every process is here."""
    together(lambda: None)


def mean(values: Mapping[str, float]) -> dict[str, float]:
    """Returns the means over processes of numbers with the same names."""
    found = together(lambda: values)
    return {name: sum(one[name] for one in found) / len(found) for name in values}


def join_rows(own: Tensor) -> Tensor:
    """Returns the rows (n, H) of which each process r has computed r, r + count, ...; gradients reach only its own."""
    if count() == 1:
        return own
    parts: list[Tensor] = _gather(own.detach().cpu())
    joined = own.new_empty(sum(map(len, parts)), *own.shape[1:])
    for process, part in enumerate(parts):
        joined[process :: count()] = own if process == rank() else part.to(own)
    return joined


def sum_gradients(parameters: Iterable[nn.Parameter | Tensor]) -> None:
    """Adds up the gradients of all processes; each then has the sum."""
    if count() == 1:
        return
    import torch
    import torch.distributed as dist

    _connect()
    weights = list(parameters)
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for weight, part in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
        weight.grad = part.view_as(weight)


def require_shared(*paths: Path) -> None:
    """Raises StorageError if this process does not see what another one made."""
    for path in (path for path in paths if not path.exists()):
        raise StorageError(f"{path}: another process made it, this one does not see it; give all one file system")


def let_first_speak() -> None:
    """Waits a little before a fault is printed, unless this is the first process: as a rule that one has it, too.

    It prints the line, and the launcher then ends the others.
    """
    if rank():
        time.sleep(GRACE_SECONDS)


def _gather(value: T) -> list[T]:
    import torch.distributed as dist

    _connect()
    gathered: list[Any] = [None] * count()
    dist.all_gather_object(gathered, value)
    return gathered


@cache
def _connect() -> None:
    """See :func:`start`."""
    import torch
    import torch.distributed as dist

    on_gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true")
    if on_gpu:
        here, there_are = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > there_are:
            raise InputError(
                f"{here} processes share {there_are} GPU(s): start one for each, or use CPUs with CUDA_VISIBLE_DEVICES="
            )
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
    atexit.register(_disconnect)
    if rank():
        hide()


def _disconnect() -> None:
    import torch.distributed as dist

    if dist.is_initialized():  # its threads would abort the process at its end
        dist.destroy_process_group()
