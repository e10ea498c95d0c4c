"""What this machine has, what is installed, which path each part takes, and what is broken."""

from __future__ import annotations

import platform
from typing import Any

from rabtriever.doctor.installation import find_models, list_extras, list_faults
from rabtriever.doctor.machine import describe_machine, describe_storage
from rabtriever.doctor.paths import choose_paths


def diagnose() -> dict[str, Any]:
    """Looks at machine and installation; nothing is downloaded, converted or compiled.

    Returns:
        ``rabtriever`` and ``python`` (versions), ``machine``, ``storage``, ``extras`` by name, ``models`` by name,
        ``paths`` by the part of the package that takes them, and ``faults``, lines about what is needed and broken.
    """
    from rabtriever import __version__

    models, storage = find_models(), describe_storage()
    faults = list_faults()
    faults += [f"{name}: {found['fault']}" for name, found in models.items() if found["needed"] and found["fault"]]
    if not storage["writable"]:
        faults.append(f"{storage['cache']}: not writable; set RABTRIEVER_CACHE to a folder that is")
    return {
        "rabtriever": __version__,
        "python": platform.python_version(),
        "machine": describe_machine(),
        "storage": storage,
        "extras": list_extras(),
        "models": models,
        "paths": choose_paths(models),
        "faults": faults,
    }
