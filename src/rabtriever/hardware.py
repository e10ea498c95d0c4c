"""The machine: processor, cores, memory and GPUs, of a container what it may use."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from rabtriever.cgroups import cpu_quota, memory_limit
from rabtriever.kernels import why_no_llvm
from rabtriever.threads import available_cores

GB = 1 << 30
# What the kernels and torch's matrix products can use.
INSTRUCTIONS = ("avx2", "avx512f", "avx512vnni", "avx512bf16", "amx-int8", "amx-bf16", "dotprod", "i8mm", "bf16")


def describe_hardware() -> dict[str, Any]:
    """Returns the system, the processor and its instructions, cores, memory in GB, and the GPUs that torch can use.

    ``instructions`` is empty where llvmlite cannot tell, ``memory_gb`` and ``memory_free_gb`` None where the system
    does not say.
    """
    total, free = _memory()
    return {
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "instructions": _instructions(),
        "cores": available_cores(),
        "cores_of_machine": os.cpu_count(),
        "cores_quota": cpu_quota(),
        "memory_gb": total,
        "memory_free_gb": free,
        "gpus": _gpus(),
    }


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _instructions() -> list[str]:
    if why_no_llvm():
        return []
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return [name for name in INSTRUCTIONS if features.get(name)]


def _memory() -> tuple[float | None, float | None]:
    """Returns the GB that this process may use, and those that are free; None where the system does not say."""
    values: dict[str, int] = {}
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            name, _, size = line.partition(":")
            values[name] = int(size.split()[0]) * 1024
    total, free = values.get("MemTotal"), values.get("MemAvailable")
    if total is None:
        with suppress(OSError, ValueError, AttributeError):
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [limit for limit in (memory_limit(),) if limit is not None]
    sizes = (None if size is None else round(min([size, *limits]) / GB, 1) for size in (total, free))
    return next(sizes), next(sizes)


def _gpus() -> list[str]:
    try:
        import torch

        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    except Exception:  # broken libraries fail in many ways
        return []
