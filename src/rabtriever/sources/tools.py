"""A tool as a document: its name, what it does, then its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rabtriever.data import Document

PARAMETER_CHARACTERS = 1000  # of all parameters together: models read the description first


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
