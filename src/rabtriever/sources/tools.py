"""A tool as a document: its name, what it does, then its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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


def placed_tools(place: str, server: str, tools: Iterable[Any]) -> Iterator[Placed]:
    """Yields the documents of a server's tools, as :func:`as_in_mcp` takes them; raises InputError.

    Args:
        place: The file they stand in, for messages.
        server: The server's name; may be blank.
        tools: One JSON object each.
    """
    for i, tool in enumerate(tools, start=1):
        where = f"{place}, tool {i}"
        yield where, tool_document(server, as_in_mcp(tool, where))


def as_in_mcp(tool: Any, place: str) -> dict[str, Any]:  # noqa: ANN401
    """Returns a tool as MCP describes it.

    Args:
        tool: In the shape of MCP, of Anthropic's messages, or of OpenAI's responses or chat completions.
        place: Where it stands, for messages.

    Raises:
        InputError: it has no name, or its title or description is no text.
    """
    described = tool if not isinstance(tool, Mapping) or "name" in tool else tool.get("function", tool)
    name = described.get("name") if isinstance(described, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{place}: {shorten(tool)} has no name; give a JSON object with a name")
    for key in ("title", "description"):
        if not isinstance(described.get(key), str | None):
            raise InputError(f"{place}: {key} of {name!r} is {shorten(described[key])}; it should be a string")
    schemas = [described.get(key) for key in SCHEMA_KEYS]
    return {**described, "inputSchema": next((one for one in schemas if one and isinstance(one, Mapping)), None)}


def is_tool(value: Any) -> bool:  # noqa: ANN401
    """Returns whether an entry of a list shows that it is a tool, and no row of a table: by the schema it has."""
    if not isinstance(value, Mapping):
        return False
    if isinstance(value.get("function"), Mapping) and "name" in value["function"]:
        return True
    schemas = [value[key] for key in SCHEMA_KEYS[:2] if key in value]
    if any(isinstance(schema, Mapping | None) for schema in schemas):
        return True
    schema = value.get("parameters")  # of a table, a column of anything
    return isinstance(schema, Mapping) and ("properties" in schema or schema.get("type") == "object")


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
