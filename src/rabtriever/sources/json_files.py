"""JSON and YAML files: lists of tools, MCP servers, OpenAPI documents, rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rabtriever.errors import InputError
from rabtriever.sources.mcp_config import parse_servers
from rabtriever.sources.mcp_servers import server_tools
from rabtriever.sources.openapi import operation_documents
from rabtriever.sources.places import Placed, read_json
from rabtriever.sources.tables import Columns, row_documents
from rabtriever.sources.tools import is_tool, placed_tools


def json_documents(path: Path, columns: Columns) -> Iterator[Placed]:
    """Returns the documents of a JSON or YAML file.

    Raises:
        InputError: it is malformed or holds something else.
        RemoteError: it names an MCP server that does not list its tools.
    """
    place, value = str(path), read_json(path)
    if isinstance(value, list):
        return _list_documents(place, value, columns)
    if isinstance(value, Mapping):
        if "mcpServers" in value:
            return _server_documents(place, server_tools(parse_servers(value["mcpServers"], place), place))
        if "openapi" in value or "swagger" in value:
            return operation_documents(place, value, path.stem)
        answer = _tool_list(place, value.get("result", value))  # a server's, with or without RPC
        if answer is not None:
            return placed_tools(place, "", answer)
        lists = {str(name): _tool_list(f"{place}, server {name!r}", part) for name, part in value.items()}
        if lists and all(part is not None for part in lists.values()):
            return _server_documents(place, {name: part or [] for name, part in lists.items()})
    fault = "neither tools, mcpServers, an OpenAPI document nor a list of rows"
    raise InputError(f"{place}: {fault}; give one of these")


def _tool_list(place: str, value: Any) -> list[Any] | None:  # noqa: ANN401
    found = value.get("tools") if isinstance(value, Mapping) else value
    if isinstance(value, Mapping) and found is not None and value.get("nextCursor"):
        warnings.warn(f"{place}: nextCursor says that the server has more tools; get all pages", stacklevel=2)
    return found if isinstance(found, list) else None


def _list_documents(place: str, values: list[Any], columns: Columns) -> Iterator[Placed]:
    if columns == Columns() and any(map(is_tool, values)):
        return placed_tools(place, "", values)
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise InputError(f"{place}, item {i + 1}: not a JSON object; each should be a tool or a row")
    return row_documents(((f"{place}, item {i}", row) for i, row in enumerate(values, start=1)), columns)


def _server_documents(place: str, servers: Mapping[str, list[Any]]) -> Iterator[Placed]:
    for server, tools in servers.items():
        yield from placed_tools(f"{place}, server {server!r}", server, tools)
