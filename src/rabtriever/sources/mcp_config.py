"""MCP servers of a JSON file with ``mcpServers``, as Claude, Cursor and other clients have it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rabtriever.errors import InputError, NotFoundError, shorten

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")  # ${NAME}, ${NAME:-default}
TRANSPORTS = ("stdio", "http", "streamable-http", "sse")


@dataclass(frozen=True)
class ServerConfig:
    """A server: a command to run, or a URL.

    Attributes:
        name: As in the file.
        prefix: What its tools' names begin with: its name, but for collisions (:func:`tool_prefixes`).
        command: Program to run; blank for a server behind a URL.
        args: Its arguments.
        env: Variables that it gets besides PATH, HOME and the like.
        cwd: Folder to run it in; None: this process's.
        url: Where it listens.
        headers: HTTP headers of every request, such as ``Authorization``.
        sse: Whether the URL speaks the transport that came before streamable HTTP.
        allow: Patterns such as ``get_*`` of the tools that may be found and called.
        deny: Patterns of those that may not; they win.
    """

    name: str
    prefix: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    sse: bool = False
    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()

    def allows(self, tool: str) -> bool:
        """Returns whether a tool of this server, by its own name, may be found and called."""
        allowed = any(fnmatchcase(tool, pattern) for pattern in self.allow)
        return allowed and not any(fnmatchcase(tool, pattern) for pattern in self.deny)


def read_servers(path: str | Path, environment: Mapping[str, str] = os.environ) -> list[ServerConfig]:
    """Reads the servers of a file; those with ``"disabled": true`` are left out, unknown keys ignored.

    Args:
        path: JSON, ``{"mcpServers": {NAME: {"command", "args", "env", "cwd"} or {"url", "headers", "type"}}}``, each
            with ``allow`` and ``deny`` if some of its tools shall not be offered. ``${NAME}`` and ``${NAME:-default}``
            in a string stand for a variable of the environment.
        environment: Where the variables are.

    Raises:
        NotFoundError: there is no such file.
        InputError: it is malformed, names no server, or a variable that is not set.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file; give a JSON file with mcpServers")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error}); correct or replace it") from None
    if not isinstance(values, dict) or "mcpServers" not in values:
        raise InputError(f'{path}: no "mcpServers" in it; write {{"mcpServers": {{NAME: {{"command": ...}}}}}}')
    return parse_servers(values["mcpServers"], path, environment)


def parse_servers(
    servers: Any,  # noqa: ANN401
    path: str | Path,
    environment: Mapping[str, str] = os.environ,
) -> list[ServerConfig]:
    """Returns the servers that the value of ``mcpServers`` describes; ``path`` is named in messages.

    Raises:
        InputError: as of :func:`read_servers`.
    """
    if not isinstance(servers, Mapping):
        raise InputError(f"{path}: mcpServers is {shorten(servers)}; give an object of name and server")
    used = {name: one for name, one in servers.items() if not (isinstance(one, dict) and one.get("disabled") is True)}
    if not used:
        raise InputError(f"{path}: mcpServers names no server; add one")
    prefixes = tool_prefixes(list(used), path)
    return [_read_server(name, used[name], prefixes[name], path, environment) for name in used]


def tool_prefixes(names: Sequence[str], path: str | Path = "mcpServers") -> dict[str, str]:
    """Returns what the names of each server's tools begin with, so that no two tools have one name.

    That is the server's name. Only where another server's name and a dot begin it, as ``a`` and ``a.b``, of which the
    first may have a tool ``b.c`` and the second ``c``, are its dots written ``%2E``.

    Raises:
        InputError: a blank name, or two that come out equal.
    """
    prefixes = dict[str, str]()
    for name in names:
        if not name.strip():
            raise InputError(f"{path}: a server's name is blank; give it one")
        inside = any(name.startswith(other + ".") for other in names)
        prefixes[name] = name.replace(".", "%2E") if inside else name
    for name, prefix in prefixes.items():
        if any(f"{prefix}.".startswith(f"{other}.") for one, other in prefixes.items() if one != name):
            raise InputError(f"{path}: server {name!r}: its tools could have the names of another's; rename it")
    return prefixes


def _read_server(name: str, given: Any, prefix: str, path: str | Path, environment: Mapping[str, str]) -> ServerConfig:  # noqa: ANN401
    where = f"{path}: server {name!r}"
    if not isinstance(given, dict):
        raise InputError(f"{where}: {shorten(given)} is no JSON object; give it a command or a url")
    row = _expand(given, where, environment)

    def read(key: str, kind: str, default: Any) -> Any:  # noqa: ANN401
        value = row.get(key)
        if value is None:
            return default
        good = {
            "a string": isinstance(value, str),
            "a list of strings": isinstance(value, list) and all(isinstance(one, str) for one in value),
            "an object of strings": isinstance(value, dict) and all(isinstance(one, str) for one in value.values()),
        }
        if not good[kind]:
            raise InputError(f"{where}: {key} is {shorten(value)}; give {kind}")
        return tuple(value) if isinstance(value, list) else value

    command, url, transport = read("command", "a string", ""), read("url", "a string", ""), read("type", "a string", "")
    if bool(command) == bool(url):
        raise InputError(f"{where}: give it either a command or a url")
    if transport and transport not in TRANSPORTS:
        raise InputError(f"{where}: type {transport!r}; choose one of {', '.join(TRANSPORTS)}")
    if url and not url.startswith(("http://", "https://")):
        raise InputError(f"{where}: url {url!r}; it should begin with http:// or https://")
    return ServerConfig(
        name,
        prefix,
        command,
        read("args", "a list of strings", ()),
        read("env", "an object of strings", {}),
        read("cwd", "a string", None),
        url,
        read("headers", "an object of strings", {}),
        transport == "sse",
        read("allow", "a list of strings", ("*",)),
        read("deny", "a list of strings", ()),
    )


def _expand(value: Any, where: str, environment: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Returns JSON with the variables in its strings replaced."""
    if isinstance(value, dict):
        return {key: _expand(one, where, environment) for key, one in value.items()}
    if isinstance(value, list):
        return [_expand(one, where, environment) for one in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        found = environment.get(match[1], match[2])
        if found is None:
            raise InputError(f"{where}: ${{{match[1]}}} is not set; set it, or write ${{{match[1]}:-default}}")
        return found

    return VARIABLE.sub(replacement, value)
