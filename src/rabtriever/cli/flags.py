"""Flags from a settings dataclass, and back."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, TypeVar

Settings = TypeVar("Settings")
TYPES: dict[str, Any] = {"int": int, "float": float, "str": str}


def add_flags(parser: argparse.ArgumentParser, settings: type[Any]) -> None:
    """One flag per field; its default and help stand in the dataclass."""
    for field in fields(settings):
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=TYPES[str(field.type)],
            default=field.default,
            metavar=str(field.type).upper(),
            help=f"{field.metadata['help']} (default: {field.default})",
        )


def from_flags(args: argparse.Namespace, settings: type[Settings]) -> Settings:
    """The dataclass that the flags describe."""
    return settings(**{field.name: getattr(args, field.name) for field in fields(settings)})  # type: ignore[arg-type]
