"""The machine, the device that torch takes on it, and the cache folder's disk."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from rabtriever.caching import cache_dir
from rabtriever.hardware import GB, describe_hardware


def describe_machine() -> dict[str, Any]:
    """Returns the hardware (:func:`rabtriever.hardware.describe_hardware`), and torch's ``device`` and ``dtype``."""
    return {**describe_hardware(), **_torch()}


def describe_storage() -> dict[str, Any]:
    """Returns the cache folder, whether it can be written, and how many GB its disk has left."""
    folder = cache_dir()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
        writable = there.is_dir()
    except OSError:
        writable = False
    return {"cache": str(folder), "writable": writable, "free_gb": round(shutil.disk_usage(there).free / GB, 1)}


def _torch() -> dict[str, str | None]:
    try:
        from rabtriever.llm.loading import choose_device, native_dtype

        device = choose_device(None)
        return {"device": device, "dtype": str(native_dtype(device)).removeprefix("torch.")}
    except Exception:  # broken libraries fail in many ways; `list_faults` names them
        return {"device": None, "dtype": None}
