"""MCP servers of a JSON file with ``mcpServers``, as Claude, Cursor and other clients have it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rabtriever.errors import InputError, NotFoundError
from rabtriever.persistence.files import is_file
from rabtriever.persistence.folder import normalized_uri
from rabtriever.sources.places import read_json

VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)(?::-([^}]*))?\}")  # ${NAME}, ${env:NAME}, ${NAME:-default}
OF_AN_EDITOR = re.compile(r"\$\{[A-Za-z]+:[A-Za-z]\w*\}")  # ${input:token}, which only the editor knows
TRANSPORTS = ("stdio", "http", "streamable-http", "sse")
STRING, STRINGS, MAPPING = "a string", "a list of strings", "an object of strings"
KEYS = {
    "command": STRING,
    "args": STRINGS,
    "env": MAPPING,
    "cwd": STRING,
    "url": STRING,
    "headers": MAPPING,
    "type": STRING,
    "allow": STRINGS,
    "deny": STRINGS,
}
ALIKE = 0.8  # how much a key must resemble one of ours to count as misspelt; clients have keys of their own


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

    def idle_patterns(self, tools: Sequence[str]) -> list[tuple[str, str]]:
        """Returns the patterns that match none of the server's tools, each after ``allow`` or ``deny``."""
        patterns = [("allow", one) for one in self.allow if one != "*"] + [("deny", one) for one in self.deny]
        return [(key, one) for key, one in patterns if not any(fnmatchcase(tool, one) for tool in tools)]


def read_servers(path: str | Path, environment: Mapping[str, str] = os.environ) -> list[ServerConfig]:
    """Reads the servers of a file; those with ``"disabled": true`` are left out, keys of clients ignored.

    Messages name keys and types, never values: a value may be a key of an API.

    Args:
        path: JSON, ``{"mcpServers": {NAME: {"command", "args", "env", "cwd"} or {"url", "headers", "type"}}}``, each
            with ``allow`` and ``deny`` if some of its tools shall not be offered. ``${NAME}``, ``${env:NAME}`` and
            ``${NAME:-default}`` in a string stand for a variable of the environment. It may hold
            keys: of a URI no copy is made on this machine.
        environment: Where the variables are.

    Raises:
        NotFoundError: there is no such file.
        InputError: it is malformed, names no server, or a variable that is not set.
    """
    path = normalized_uri(path)
    if not is_file(path):
        raise NotFoundError(f"{path}: no such file; give a JSON file with mcpServers")
    values = read_json(path)
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
        raise InputError(f"{path}: mcpServers is {_type(servers)}; give an object of name and server")
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
        raise InputError(f"{where}: {_type(given)} is no JSON object; give it a command or a url")
    for key in given:
        _check_key(str(key), where)
    for key, kind in KEYS.items():
        _check_value(key, given.get(key), kind, where)
    row = _expand({key: given[key] for key in KEYS if given.get(key) is not None}, where, environment)
    command, url, transport = row.get("command", ""), row.get("url", ""), row.get("type", "")
    if bool(command) == bool(url):
        raise InputError(f"{where}: give it either a command or a url")
    if transport and transport not in TRANSPORTS:
        raise InputError(f"{where}: its type is none of {', '.join(TRANSPORTS)}; choose one")
    if transport and (transport == "stdio") != bool(command):
        raise InputError(f"{where}: type {transport} goes with a {'url' if command else 'command'}; correct either")
    if url and not url.startswith(("http://", "https://")):
        raise InputError(f"{where}: its url should begin with http:// or https://; write it whole")
    return ServerConfig(
        name,
        prefix,
        command,
        tuple(row.get("args", ())),
        row.get("env", {}),
        row.get("cwd"),
        url,
        row.get("headers", {}),
        transport == "sse",
        tuple(row.get("allow", ("*",))),
        tuple(row.get("deny", ())),
    )


def _check_key(key: str, where: str) -> None:
    """Refuses a misspelt key: ``denied`` would deny nothing. Clients' own, such as ``timeout``, are let through."""
    known = [*KEYS, "disabled"]
    like = get_close_matches(key.casefold(), known, 1, ALIKE)
    like += [ours for ours in ("allow", "deny") if key.casefold().startswith(ours[:3])]
    if like and key not in known:
        raise InputError(f"{where}: no key {key!r}; did you mean {like[0]}?")


def _check_value(key: str, value: Any, kind: str, where: str) -> None:  # noqa: ANN401
    parts: list[tuple[str, Any]] = []
    if kind == STRINGS and isinstance(value, list):
        parts = [(f"{key}[{number}]", one) for number, one in enumerate(value)]
    elif kind == MAPPING and isinstance(value, dict):
        parts = [(f"{key}.{inner}", one) for inner, one in value.items()]
    elif value is not None and not (kind == STRING and isinstance(value, str)):
        raise InputError(f"{where}: {key} is {_type(value)}; give {kind}")
    for place, one in parts:
        if not isinstance(one, str):
            raise InputError(f"{where}: {place} is {_type(one)}; give {STRING}")


def _type(value: object) -> str:
    """Returns what kind of JSON a value is, in words."""
    names = {str: STRING, list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _expand(value: Any, where: str, environment: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Returns JSON with the variables in its strings replaced."""
    if isinstance(value, dict):
        return {key: _expand(one, where, environment) for key, one in value.items()}
    if isinstance(value, list):
        return [_expand(one, where, environment) for one in value]

    def replacement(match: re.Match[str]) -> str:
        found = environment.get(match[1], match[2])
        if found is None:
            raise InputError(f"{where}: ${{{match[1]}}} is not set; set it, or write ${{{match[1]}:-default}}")
        return found

    for found in OF_AN_EDITOR.findall(value):
        if not found.startswith("${env:"):
            raise InputError(f"{where}: only an editor knows {found}; write ${{NAME}} and set that variable")
    return VARIABLE.sub(replacement, value)
