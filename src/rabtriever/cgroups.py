"""What a container may use of its machine: the limits of its Linux control groups, version 2 or 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
NO_LIMIT = 1 << 60  # bytes; version 1 writes about as much where there is none


@cache
def cpu_quota() -> float | None:
    """Returns how many cores' time this process may take, such as 1.5 (`docker run --cpus 1.5`); None: no limit."""
    quotas = []
    for folder in _folders("cpu"):
        limit, period = [*_words(folder / "cpu.max"), "", ""][:2]
        if not limit:
            limit, period = _word(folder / "cpu.cfs_quota_us"), _word(folder / "cpu.cfs_period_us")
        if limit.isdigit() and period.isdigit():
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Returns how many bytes this process and those of its control group may take; None: no limit."""
    words = (_word(folder / name) for folder in _folders("memory") for name in ("memory.max", "memory.limit_in_bytes"))
    return min((int(word) for word in words if word.isdigit() and int(word) < NO_LIMIT), default=None)


def _folders(controller: str) -> Iterator[Path]:
    """Yields the folders of this process's group and of all above it; those that a container cannot see are missing."""
    with suppress(OSError):
        for line in OWN.read_text().splitlines():
            _, names, group = line.split(":", 2)
            if names and controller not in names.split(","):
                continue
            mount = MOUNT / controller if names else MOUNT
            place = Path(group.lstrip("/"))
            yield from (mount / part for part in (place, *place.parents))


def _words(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text().split()
    return []


def _word(path: Path) -> str:
    return next(iter(_words(path)), "")
