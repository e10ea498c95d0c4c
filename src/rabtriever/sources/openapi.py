"""OpenAPI 3 documents: an operation as a document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any
from urllib.parse import unquote

from rabtriever.data import Document
from rabtriever.errors import InputError, shorten
from rabtriever.sources.places import Placed
from rabtriever.sources.tools import parameters

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
MAX_HOPS = 32  # of references to references


def operation_documents(place: str, specification: Mapping[str, Any], name: str) -> Iterator[Placed]:
    """Yields the operations of an OpenAPI 3 document.

    A document's id is ``api.operationId``, or ``api.method_path`` without one, where ``api`` is the title in lower
    case; the second of one such id ends with ``_2``. Its text is the summary and the description, method and path, then
    the parameters and the properties of the body, cut as those of a tool.

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
    api = _slug(title.lower() if isinstance(title, str) else "", "-") or name
    paths = specification.get("paths")
    if not isinstance(paths, Mapping):
        raise InputError(f"{place}: no paths in it; give an OpenAPI document with operations")
    items = {str(path): _mapping(_resolve(specification, item, place)) for path, item in paths.items()}
    routes = [
        (path, method, item)
        for path, item in items.items()
        for method in METHODS
        if isinstance(item.get(method), Mapping)
    ]
    taken = {_operation_id(item[method]) for _, method, item in routes}
    for path, method, item in routes:
        leaf = _operation_id(item[method])
        if not leaf:  # /users/me and /users/{me} have the same words
            words = f"{method}_{_slug(path, '_')}".rstrip("_")
            leaf = next(name for name in _numbered(words) if name not in taken)
            taken.add(leaf)
        where = f"{place}, {method.upper()} {path}"
        yield where, _document(specification, api, leaf, path, method, item, where)


def _document(
    specification: Mapping[str, Any], api: str, leaf: str, path: str, method: str, item: Mapping[str, Any], place: str
) -> Document:
    operation, route = item[method], f"{method.upper()} {path}"
    named = _operation_id(operation)
    said = [operation.get("summary"), operation.get("description")]
    said = [part.strip() for part in said if isinstance(part, str) and part.strip()]
    schema = {"inputSchema": {"properties": _properties(specification, item, operation, place)}}
    text = "\n".join(part for part in (*dict.fromkeys(said), route if named else "", parameters(schema)) if part)
    tags = [tag for tag in _list(operation.get("tags")) if isinstance(tag, str)]
    metadata = {"api": api, "name": leaf, "method": method.upper(), "path": path, "tags": tags}
    return Document(f"{api}.{leaf}", text, named or route, metadata)


def _operation_id(operation: Mapping[str, Any]) -> str:
    """Returns an operation's id; blank if it has none."""
    found = operation.get("operationId")
    return found if isinstance(found, str) and found.strip() else ""


def _properties(
    specification: Mapping[str, Any], item: Mapping[str, Any], operation: Mapping[str, Any], place: str
) -> dict[str, Any]:
    """Returns an operation's parameters and the properties of its body, by name."""
    found: dict[str, Any] = {}
    for parameter in [*_list(item.get("parameters")), *_list(operation.get("parameters"))]:
        parameter = _mapping(_resolve(specification, parameter, place))
        if parameter.get("name"):
            found[str(parameter["name"])] = parameter
    body = _mapping(_resolve(specification, operation.get("requestBody"), place))
    for content in list(_mapping(body.get("content")).values())[:1]:  # the same values in another format
        found |= _schema_properties(specification, _mapping(content).get("schema"), place, set())
    return found


def _schema_properties(specification: Mapping[str, Any], schema: Any, place: str, seen: set[int]) -> dict[str, Any]:  # noqa: ANN401
    """Returns the properties of a schema, and of those it is made of, each with its description.

    ``seen`` holds the schemas that were read already: a parent is ``oneOf`` its children, and each is ``allOf`` it.
    """
    schema, _ = _follow(specification, schema, place)
    if not isinstance(schema, Mapping) or id(schema) in seen:
        return {}
    seen.add(id(schema))
    found: dict[str, Any] = {}
    for key in ("allOf", "anyOf", "oneOf"):
        for part in _list(schema.get(key)):
            found |= _schema_properties(specification, part, place, seen)
    for name, value in _mapping(schema.get("properties")).items():
        found[str(name)] = _resolve(specification, value, place)
    return found


def _resolve(specification: Mapping[str, Any], value: Any, place: str) -> Any:  # noqa: ANN401
    """Returns what a reference leads to in the document, with a description that stands beside it; others as is."""
    target, description = _follow(specification, value, place)
    return target if description is None or not isinstance(target, Mapping) else {**target, "description": description}


def _follow(specification: Mapping[str, Any], value: Any, place: str) -> tuple[Any, Any]:  # noqa: ANN401
    """Returns what a reference leads to, itself and no copy, and the first description beside a reference."""
    description = None
    for _ in range(MAX_HOPS):
        if not isinstance(value, Mapping) or not isinstance(value.get("$ref"), str):
            return value, description
        if description is None:
            description = value.get("description")
        value = _target(specification, value["$ref"], place)
    raise InputError(f"{place}: a $ref leads back to itself; correct the document")


def _target(specification: Mapping[str, Any], reference: str, place: str) -> Any:  # noqa: ANN401
    fault = f"{place}: $ref {shorten(reference)} leads nowhere in this file; bundle the document into one file"
    if not reference.startswith("#/"):
        raise InputError(fault)
    found: Any = specification
    for part in reference[2:].split("/"):
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, Mapping) and key in found:
            found = found[key]
        else:
            raise InputError(fault)
    return found


def _slug(text: str, joint: str) -> str:
    """Returns the words of a text, in any script, joined."""
    return joint.join(re.findall(r"[^\W_]+", text))


def _numbered(name: str) -> Iterator[str]:
    """Yields a name, then with ``_2``, ``_3`` and so on."""
    yield name
    yield from (f"{name}_{number}" for number in count(2))


def _mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:  # noqa: ANN401
    return value if isinstance(value, list) else []
