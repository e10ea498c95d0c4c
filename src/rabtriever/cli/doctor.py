"""Say what this machine has, what is installed, which path each part takes, and what is broken."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from rabtriever.cli.arguments import print_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 1 if something that is needed is broken."""
    from rabtriever.doctor import diagnose

    report = diagnose()
    print_result(args, report, format_report(report))
    return 1 if report["faults"] else 0


def format_report(report: Mapping[str, Any]) -> str:
    """Returns what :func:`rabtriever.doctor.diagnose` returned as text."""
    machine, storage = report["machine"], report["storage"]
    quota = "" if machine["cores_quota"] is None else f", a quota of {machine['cores_quota']:g}"
    rows = {
        "rabtriever": f"{report['rabtriever']}, Python {report['python']}, {machine['system']}",
        "CPU": f"{machine['cpu']}: {' '.join(machine['instructions']) or 'its instructions are not known'}",
        "cores": f"{machine['cores']} of {machine['cores_of_machine']}{quota}",
        "memory": f"{machine['memory_free_gb']} GB free of {machine['memory_gb']}",
        "GPU": ", ".join(machine["gpus"]) or "none that torch can use",
        "cache": f"{storage['cache']}, {'' if storage['writable'] else 'not '}writable, {storage['free_gb']} GB free",
    }
    models = {name: found["folder"] or f"not here: {found['fault']}" for name, found in report["models"].items()}
    paths = {part: f"{path['runs']}: {path['why']}" for part, path in report["paths"].items()}
    extras = {name: _describe_extra(name, found) for name, found in report["extras"].items()}
    lines = _section("Machine", rows) + _section("Models", models) + _section("What runs", paths)
    lines += _section("Extras", extras)
    faults = report["faults"]
    return "\n".join(
        [*lines, *(["Broken", *(f"  {fault}" for fault in faults)] if faults else ["All that is needed works."])]
    )


def _describe_extra(name: str, found: Mapping[str, Any]) -> str:
    if found["missing"]:
        return f"pip install 'rabtriever[{name}]'"
    return ", ".join(f"{package} {version}" for package, version in found["versions"].items())


def _section(title: str, rows: Mapping[str, str]) -> list[str]:
    return [title, *(f"  {name:14s} {text}" for name, text in rows.items()), ""] if rows else []
