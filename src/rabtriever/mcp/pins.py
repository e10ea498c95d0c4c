"""What is known of every server's tools, on disk: as they were last seen, and the digests that were approved.

Whoever approves a tool approves its name, title, description and schema: that text is read by a model that may act on
it. A tool is approved when it is first seen. A server that changes the text later has not been approved again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from filelock import FileLock

from rabtriever.errors import InputError, first_line

FIELDS = ("name", "title", "description", "inputSchema")  # of a tool, that models read
DIGITS = 32  # of a digest, that name a text to approve: too many to make two texts that share them


@dataclass
class Pin:
    """What is known of a tool.

    Attributes:
        tool: Its :data:`FIELDS`, as last seen.
        approved: The digest that was approved.
        before: Its fields as they were approved, while they differ.
        listed: Whether its server had it when last asked. If it comes back, its digest still counts.
    """

    tool: dict[str, Any]
    approved: str
    before: dict[str, Any] | None = None
    listed: bool = True

    @property
    def changed(self) -> bool:
        """Whether it differs from what was approved."""
        return self.before is not None

    @property
    def approved_tool(self) -> dict[str, Any]:
        """Its fields as they were approved."""
        return self.before or self.tool


class Pins:
    """The pins of all servers: one JSON file a server in a folder, which several gateways may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stamp(self, server: str) -> int:
        """Returns a number that changes with the server's file; 0: there is none."""
        try:
            return self._path(server).stat().st_mtime_ns
        except OSError:
            return 0

    def read(self, server: str) -> dict[str, Pin]:
        """Returns a server's tools by name; raises InputError if the file is damaged."""
        path = self._path(server)
        if not path.is_file():
            return {}
        try:
            return {name: Pin(**pin) for name, pin in json.loads(path.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            remedy = "remove it; its tools then count as new"
            raise InputError(f"{path}: damaged ({first_line(error)}); {remedy}") from None

    def saw(self, server: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Pin]:
        """Notes a server's present tools, approves those that are new, and returns the pins of all it ever had."""
        present: dict[str, dict[str, Any]] = {}
        for tool in tools:
            present.setdefault(tool["name"], {key: tool.get(key) for key in FIELDS})
        with self._lock(server):
            old = self.read(server)
            new = {name: _seen(old.get(name), tool) for name, tool in present.items()}
            for name, pin in old.items():
                new.setdefault(name, Pin(pin.tool, pin.approved, pin.before, listed=False))
            if new != old:
                self._write(server, new)
        return new

    def approve(self, server: str, read: Mapping[str, str]) -> None:
        """Approves tools: by name, the first :data:`DIGITS` of the digest of what somebody has read.

        Raises:
            InputError: a tool has another text by now; then none is approved.
        """
        with self._lock(server):
            pins = self.read(server)
            for name, given in read.items():
                if name not in pins or not (now := digest(pins[name].tool)).startswith(given):
                    raise InputError(f"{name!r} has changed meanwhile; look at it again with `--approve`")
                pins[name] = Pin(pins[name].tool, now, listed=pins[name].listed)
            self._write(server, pins)

    def _path(self, server: str) -> Path:
        return self.folder / f"{quote(server, safe='')}.json"

    def _lock(self, server: str) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self._path(server).with_suffix(".lock"))

    def _write(self, server: str, pins: Mapping[str, Pin]) -> None:
        path = self._path(server)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        temporary.write_text(json.dumps({name: asdict(pin) for name, pin in pins.items()}), encoding="utf-8")
        os.replace(temporary, path)


def digest(tool: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a tool's :data:`FIELDS`."""
    fields = {key: tool.get(key) for key in FIELDS}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _seen(pin: Pin | None, tool: dict[str, Any]) -> Pin:
    now = digest(tool)
    if pin is None or pin.approved == now:
        return Pin(tool, now)
    return Pin(tool, pin.approved, pin.before or pin.tool)
