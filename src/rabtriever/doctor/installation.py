"""What is installed: required packages, extras, and models that need no network."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

from rabtriever.errors import InputError, first_line
from rabtriever.persistence.hub import shipped_model

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "rabtriever"
FOR_DEVELOPERS = ("benchmarks", "docs", "results", "test")
# Compiled packages, which can be installed and yet fail: made for another NumPy, or without a library of the system.
COMPILED = ("numpy", "torch", "tokenizers", "safetensors", "pyarrow", "lancedb", "scipy")


def list_faults() -> list[str]:
    """Returns a line for each required package that is missing, of another version, or cannot be imported."""
    faults = []
    for requirement in _requirements():
        found = _version(requirement.name)
        if found is None:
            faults.append(f"{requirement.name}: not installed; pip install '{_plain(requirement)}'")
        elif not requirement.specifier.contains(found, prereleases=True):
            faults.append(f"{requirement.name}: {found} is installed; pip install '{_plain(requirement)}'")
    for name in COMPILED:
        try:
            import_module(name)
        except Exception as error:  # whatever a broken library raises
            faults.append(f"{name}: cannot be imported ({first_line(error)}); install it again")
    return faults


def list_extras() -> dict[str, dict[str, Any]]:
    """Returns, for each extra, the ``versions`` of its packages that are installed and which are ``missing``."""
    extras: dict[str, dict[str, Any]] = {}
    for requirement in _requirements(of_extras=True):
        extra = str(requirement.marker).rpartition("extra == ")[2].strip("\"'")
        if extra in FOR_DEVELOPERS or not requirement.marker.evaluate({"extra": extra}):  # type: ignore[union-attr]
            continue
        entry = extras.setdefault(extra, {"versions": {}, "missing": []})
        found = _version(requirement.name)
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            entry["versions"][requirement.name] = found
        else:
            entry["missing"].append(_plain(requirement))
    return dict(sorted(extras.items()))


def find_models() -> dict[str, dict[str, Any]]:
    """Returns, for each model with a short name, its ``folder`` or file on this machine, or the ``fault``.

    ``needed`` says whether the package is broken without it: `smollm2` only reranks.
    """
    return {
        "tools": {"needed": True, **_found(lambda: shipped_model("tools"))},
        "minilm": {"needed": True, **_found(_find_minilm)},
        "smollm2": {"needed": False, **_found(_find_smollm2)},
    }


def _find_minilm() -> object:
    from rabtriever.encoders.sentence_files import find_sentence_model

    return find_sentence_model("minilm", local_files_only=True).folder


def _find_smollm2() -> object:
    from rabtriever.llm.sources import alias_file

    return alias_file()


def _found(find: Any) -> dict[str, str | None]:  # noqa: ANN401
    try:
        return {"folder": str(find()), "fault": None}
    except InputError as error:
        return {"folder": None, "fault": str(error)}
    except Exception as error:  # a required package is broken
        return {"folder": None, "fault": first_line(error)}


def _requirements(of_extras: bool = False) -> Iterator[Requirement]:
    """Yields what the installed package requires here, or its extras do."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:  # a source tree on the path
        return
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return
    for requirement in map(Requirement, lines):
        if of_extras == ("extra ==" in str(requirement.marker)):
            if of_extras or requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
