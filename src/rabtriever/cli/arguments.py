"""Flags from a settings dataclass, and back; the data sets that a training reads."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rabtriever.data import RetrievalData

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


def add_data(parser: argparse.ArgumentParser, summary: str) -> None:
    """The data sets to train on."""
    parser.add_argument("data", nargs="+", help=summary)
    parser.add_argument("--per-task", type=int, metavar="N", help="train queries to take of each folder (default: all)")


def read_data(args: argparse.Namespace) -> RetrievalData:
    """The data that these arguments name."""
    from rabtriever.data import load_data

    return concatenate([load_data(source) for source in args.data], args.per_task, args.seed)
