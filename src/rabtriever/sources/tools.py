"""A tool as a document: its name, what it does, then its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rabtriever.data import Document
from rabtriever.errors import InputError, shorten
from rabtriever.sources.places import Placed

PARAMETER_CHARACTERS = 1000  # of all parameters together: models read the description first
SCHEMA_KEYS = ("inputSchema", "input_schema", "parameters")  # MCP's, Anthropic's, OpenAI's


def tool_document(server: str, tool: Mapping[str, Any]) -> Document:
    """Returns the document of a tool as MCP's ``tools/list`` describes it.

    Its id is ``server.name``, its title the tool's title or name, its text the description and then, cut to
    :data:`PARAMETER_CHARACTERS`, the parameters' names and descriptions.

    Args:
        server: The server's name; may be blank, the id is the tool's name then.
        tool: ``name`` and, if there are any, ``title``, ``description`` and ``inputSchema``, a JSON schema.
    """
    name = tool["name"]
    identifier = f"{server}.{name}" if server else name
    text = "\n".join(part for part in ((tool.get("description") or "").strip(), parameters(tool)) if part)
    return Document(identifier, text, tool.get("title") or name, {"server": server, "name": name})


def tool_documents(place: str, server: str, tools: Sequence[Any]) -> Iterator[Placed]:
    """Yields the documents of a server's tools, as MCP, Anthropic or OpenAI describe them; raises InputError.

    Args:
        place: The file they stand in, for messages.
        server: The server's name; may be blank.
        tools: One JSON object each.
    """
    for i, tool in enumerate(tools, start=1):
        described = tool.get("function", tool) if isinstance(tool, Mapping) else tool
        name = described.get("name") if isinstance(described, Mapping) else None
        where = f"{place}, tool {i}"
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{where}: {shorten(tool)} has no name; give a JSON object with a name")
        for key in ("title", "description"):
            if not isinstance(described.get(key), str | None):
                raise InputError(f"{where}: {key} of {name!r} is {shorten(described[key])}; it should be a string")
        schema = next((described[key] for key in SCHEMA_KEYS if key in described), None)
        yield where, tool_document(server, {**described, "inputSchema": schema})


def parameters(tool: Mapping[str, Any]) -> str:
    """Returns a tool's parameters as one line, at most :data:`PARAMETER_CHARACTERS` long; blank if it has none."""
    schema = tool.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping) or not properties:
        return ""
    described = [
        f"{name} ({found})" if (found := _description(value)) else str(name) for name, value in properties.items()
    ]
    return ("Parameters: " + ", ".join(described))[:PARAMETER_CHARACTERS]


def _description(schema: Any) -> str:  # noqa: ANN401
    found = schema.get("description") if isinstance(schema, Mapping) else None
    return " ".join(found.split()) if isinstance(found, str) else ""
