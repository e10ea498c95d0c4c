"""OpenAPI 3 documents: an operation as a document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rabtriever.data import Document
from rabtriever.errors import InputError, shorten
from rabtriever.sources.places import Placed
from rabtriever.sources.tools import parameters

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
MAX_HOPS = 32  # of references to references


def operation_documents(place: str, specification: Mapping[str, Any], name: str) -> Iterator[Placed]:
    """Yields the operations of an OpenAPI 3 document.

    A document's id is ``api.operationId``, or ``api.method_path`` without one, where ``api`` is the title in lower
    case. Its text is the summary and the description, method and path, then the parameters and the properties of the
    body, cut as those of a tool.

    Args:
        place: The file, for messages.
        specification: What it holds.
        name: The API's name if it has no title.

    Raises:
        InputError: another version, no paths, or a reference that leads nowhere in this file.
    """
    version = str(specification.get("openapi", specification.get("swagger")))
    if not version.startswith("3."):
        raise InputError(f"{place}: OpenAPI {version}, 3.x can be read; convert the document")
    title = _mapping(specification.get("info")).get("title")
    api = _slug(title if isinstance(title, str) else "", "-") or name
    paths = specification.get("paths")
    if not isinstance(paths, Mapping):
        raise InputError(f"{place}: no paths in it; give an OpenAPI document with operations")
    for path, item in paths.items():
        item = _mapping(_resolve(specification, item, place))
        for method in METHODS:
            if isinstance(item.get(method), Mapping):
                where = f"{place}, {method.upper()} {path}"
                yield where, _document(specification, api, str(path), method, item, where)


def _document(
    specification: Mapping[str, Any], api: str, path: str, method: str, item: Mapping[str, Any], place: str
) -> Document:
    operation, route = item[method], f"{method.upper()} {path}"
    identifier = operation.get("operationId")
    named = isinstance(identifier, str) and bool(identifier.strip())
    leaf = identifier if named else f"{method}_{_slug(path, '_')}".rstrip("_")
    said = [operation.get("summary"), operation.get("description")]
    said = [part.strip() for part in said if isinstance(part, str) and part.strip()]
    schema = {"inputSchema": {"properties": _properties(specification, item, operation, place)}}
    text = "\n".join(part for part in (*dict.fromkeys(said), route if named else "", parameters(schema)) if part)
    tags = [tag for tag in operation.get("tags") or [] if isinstance(tag, str)]
    metadata = {"api": api, "name": leaf, "method": method.upper(), "path": path, "tags": tags}
    return Document(f"{api}.{leaf}", text, identifier if named else route, metadata)


def _properties(
    specification: Mapping[str, Any], item: Mapping[str, Any], operation: Mapping[str, Any], place: str
) -> dict[str, Any]:
    """Returns an operation's parameters and the properties of its body, by name."""
    found: dict[str, Any] = {}
    for parameter in [*(item.get("parameters") or []), *(operation.get("parameters") or [])]:
        parameter = _mapping(_resolve(specification, parameter, place))
        if parameter.get("name"):
            found[str(parameter["name"])] = parameter
    body = _mapping(_resolve(specification, operation.get("requestBody"), place))
    for content in list(_mapping(body.get("content")).values())[:1]:  # the same values in another format
        found |= _schema_properties(specification, _mapping(content).get("schema"), place, 0)
    return found


def _schema_properties(specification: Mapping[str, Any], schema: Any, place: str, depth: int) -> dict[str, Any]:  # noqa: ANN401
    """Returns the properties of a schema, and of those it is made of, each with its description."""
    schema = _mapping(_resolve(specification, schema, place))
    found: dict[str, Any] = {}
    if depth < MAX_HOPS:
        for key in ("allOf", "anyOf", "oneOf"):
            for part in schema.get(key) or []:
                found |= _schema_properties(specification, part, place, depth + 1)
    for name, value in _mapping(schema.get("properties")).items():
        found[str(name)] = _resolve(specification, value, place)
    return found


def _resolve(specification: Mapping[str, Any], value: Any, place: str) -> Any:  # noqa: ANN401
    """Returns what a reference leads to in the document, with a description that stands beside it; others as is."""
    beside: dict[str, Any] = {}
    for _ in range(MAX_HOPS):
        if not isinstance(value, Mapping) or not isinstance(value.get("$ref"), str):
            return {**value, **beside} if beside and isinstance(value, Mapping) else value
        if "description" in value:
            beside.setdefault("description", value["description"])
        value = _target(specification, value["$ref"], place)
    raise InputError(f"{place}: a $ref leads back to itself; correct the document")


def _target(specification: Mapping[str, Any], reference: str, place: str) -> Any:  # noqa: ANN401
    fault = f"{place}: $ref {shorten(reference)} leads nowhere in this file; bundle the document into one file"
    if not reference.startswith("#/"):
        raise InputError(fault)
    found: Any = specification
    for part in reference[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, Mapping) and key in found:
            found = found[key]
        else:
            raise InputError(fault)
    return found


def _slug(text: str, joint: str) -> str:
    """Returns the words of a text, of a title in lower case, joined."""
    return joint.join(re.findall(r"[A-Za-z0-9]+", text.lower() if joint == "-" else text))


def _mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401
    return value if isinstance(value, Mapping) else {}
