"""An index as an MCP server with one tool, that searches its documents."""

from __future__ import annotations

from typing import Any

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server as MCPServer
from mcp.shared.exceptions import MCPError

from rabtriever import __version__
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.mcp.answers import DEFAULT_K, MAX_K, error_result, read_k, read_text
from rabtriever.mcp.reranking import search_index

SEARCH_DOCUMENTS = types.Tool(
    name="search_documents",
    title="Search documents",
    description="Finds the documents that answer a query, in your own words. Returns their texts, best first.",
    input_schema={
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for."},
            "k": {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": DEFAULT_K},
        },
        "required": ["query"],
    },
    output_schema={
        "type": "object",
        "properties": {
            "documents": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "text": {"type": "string"},
                        "probability": {"type": "number"},
                        "metadata": {"type": "object"},
                    },
                    "required": ["id", "text", "probability", "metadata"],
                },
            },
            "total": {"type": "integer", "description": "Number of all documents."},
        },
        "required": ["documents", "total"],
    },
    annotations=types.ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
)


class DocumentServer:
    """Searches an index.

    Args:
        index: Open.
        rerank: Number of best documents that the retriever's reranker reads; None: no reranker.

    Attributes:
        server: What a transport serves.
    """

    def __init__(self, index: Index, rerank: int | None = None) -> None:
        self._index, self._rerank = index, rerank
        self.server: MCPServer[Any] = MCPServer(
            "rabtriever", version=__version__, on_list_tools=self._list_tools, on_call_tool=self._call
        )

    async def search_documents(self, query: str, k: int = DEFAULT_K) -> types.CallToolResult:
        """Answers a search; a reranker that fails is left out, with a line in the log."""
        hits = await anyio.to_thread.run_sync(search_index, self._index, query, k, self._rerank)
        found = [
            {"id": hit.id, "text": hit.text, "probability": round(hit.probability, 4), "metadata": hit.metadata}
            for hit in hits
        ]
        total = len(self._index)
        lines = [f"{rank}. {hit.id} ({hit.probability:.0%})\n{hit.text}" for rank, hit in enumerate(hits, 1)]
        text = "\n\n".join([f"{len(hits)} of {total} documents, best first:", *lines])
        structured = {"documents": found, "total": total}
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], structured_content=structured)

    async def _list_tools(
        self, context: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[SEARCH_DOCUMENTS])

    async def _call(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        if params.name != SEARCH_DOCUMENTS.name:
            raise MCPError(types.INVALID_PARAMS, f"no tool {params.name!r}; there is {SEARCH_DOCUMENTS.name}")
        given = params.arguments or {}
        try:
            return await self.search_documents(read_text(given, "query"), read_k(given))
        except InputError as error:
            return error_result(str(error))
