"""Tool search that the client runs: what Anthropic, OpenAI and langgraph-bigtool ask of it, and answer to it.

The index holds one document a tool, whose id is the tool's name (:func:`tool_documents`). Nothing here needs a client
library: requests and answers are JSON-ready dictionaries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from typing_extensions import Unpack

from rabtriever.data import Document
from rabtriever.errors import InputError, shorten
from rabtriever.index import Index
from rabtriever.index.hits import Hits
from rabtriever.index.search import SearchKeywords
from rabtriever.index.table_version import id_filter
from rabtriever.sources.tools import placed_tools

SEARCH_TOOL = "search_tools"
DESCRIPTION = (
    "Finds the tools that can do what is wanted and makes them available. Call it before you say that something cannot "
    "be done, with one sentence for each thing to do."
)
PARAMETERS = {
    "type": "object",
    "properties": {"request": {"type": "string", "description": "What is to be done, in a sentence."}},
    "required": ["request"],
    "additionalProperties": False,
}

Tool = Mapping[str, Any]


def tool_documents(tools: Iterable[Tool]) -> list[Document]:
    """Returns what to index of tools: name, description and parameters; the id is the name.

    Args:
        tools: As MCP, Anthropic's messages, or OpenAI's responses and chat completions describe them.

    Raises:
        InputError: a tool without a name, or whose description is no text.
    """
    return [document for _, document in placed_tools("tools", "", tools)]


def anthropic_tools(tools: Iterable[Tool], loaded: Collection[str] = ()) -> list[dict[str, Any]]:
    """Returns the ``tools`` of a request to Anthropic: the search, then all of them, to be loaded when they are found.

    Args:
        tools: In Anthropic's shape.
        loaded: Names of those that the model sees from the start.
    """
    search = {"name": SEARCH_TOOL, "description": DESCRIPTION, "input_schema": PARAMETERS}
    return [search, *({**tool, "defer_loading": tool["name"] not in loaded} for tool in tools)]


def anthropic_tool_result(index: Index, call: Any, k: int = 5, **options: Unpack[SearchKeywords]) -> dict[str, Any]:  # noqa: ANN401
    """Answers the model's call of the search with references to the tools that were found.

    Args:
        index: Of tools that the request holds (:func:`anthropic_tools`).
        call: The ``tool_use`` block, as the client library returns it or as a dictionary.
        k: Tools, at most.
        **options: Of :meth:`rabtriever.Index.search`.

    Returns:
        The ``tool_result`` block: ``tool_reference`` blocks, best first; where nothing fits, a text that says so, and
        where the model's call was wrong, what was.
    """
    block = _as_dictionary(call)
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": block["id"]}
    try:
        hits = _search(index, block["input"], k, options)
    except InputError as error:
        return {**result, "is_error": True, "content": str(error)}
    references = [{"type": "tool_reference", "tool_name": hit.id} for hit in hits]
    return {**result, "content": references or nothing_fits(hits)}


def openai_search_tool() -> dict[str, Any]:
    """Returns the search among the ``tools`` of a request to OpenAI; the tools that it finds need not be there."""
    return {"type": "tool_search", "execution": "client", "description": DESCRIPTION, "parameters": PARAMETERS}


def openai_search_output(
    index: Index,
    tools: Iterable[Tool],
    call: Any,  # noqa: ANN401
    k: int = 5,
    **options: Unpack[SearchKeywords],
) -> dict[str, Any]:
    """Answers a ``tool_search_call`` with the definitions of the tools that were found.

    Args:
        index: Of these tools.
        tools: In the shape of OpenAI's responses; those that the index holds and this list lacks are not found.
        call: The ``tool_search_call`` item, as the client library returns it or as a dictionary.
        k: Tools, at most.
        **options: Of :meth:`rabtriever.Index.search`.

    Returns:
        The ``tool_search_output`` item, best tool first; without tools where nothing fits.

    Raises:
        InputError: arguments without a request.
    """
    item, definitions = _as_dictionary(call), {tool["name"]: tool for tool in tools}
    hits = _search(index, item["arguments"], k, options)
    found = [{**definitions[hit.id], "defer_loading": True} for hit in hits if hit.id in definitions]
    shape = {"type": "tool_search_output", "execution": "client", "status": "completed"}
    return {**shape, "call_id": item["call_id"], "tools": found}


def retrieve_tools_function(index: Index, k: int = 5, **options: Unpack[SearchKeywords]) -> Callable[[str], list[str]]:
    """Returns the function of this name that ``langgraph_bigtool.create_agent`` takes.

    Args:
        index: Its ids are the keys of the agent's ``tool_registry``.
        k: Tools that one search adds, at most.
        **options: Of :meth:`rabtriever.Index.search`.
    """

    def search_tools(request: str) -> list[str]:
        return [hit.id for hit in index.search(request, k, **options)]

    search_tools.__doc__ = DESCRIPTION  # which the model reads
    return search_tools


def where_among(names: Iterable[str], where: str | None = None) -> str:
    """Returns the condition that a document is one of these tools, and that another holds, if there is one."""
    among = id_filter(sorted(names))
    return f"({where}) AND {among}" if where else among


def nothing_fits(hits: Hits) -> str:
    """Says that no tool was found, and what came closest, if the search may refuse."""
    return f"No tool fits. The closest is {hits.closest.id}." if hits.closest else "No tool fits."


def _search(index: Index, arguments: Any, k: int, options: SearchKeywords) -> Hits:  # noqa: ANN401
    """Searches for what a model asks; it writes its arguments itself, right or wrong."""
    try:
        request = (json.loads(arguments) if isinstance(arguments, str) else arguments)["request"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{shorten(arguments)}: no request; say what is to be done in `request`") from None
    return index.search(str(request), k, **options)


def _as_dictionary(value: Any) -> Mapping[str, Any]:  # noqa: ANN401
    return value if isinstance(value, Mapping) else value.model_dump()
