"""An MCP server whose tools are lines of a JSONL file: ``stub_server.py NAME CORPUS START COUNT READY``.

A line has ``_id``, ``title`` and ``text``. Each tool answers with its server's name and its own. READY is a file that
gets the time at which the last page of the list of tools had been sent.
"""

import itertools
import json
import os
import re
import sys
import time
from pathlib import Path

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

PER_PAGE = 250


def tool_name(identifier: str) -> str:
    """Returns an id as the protocol allows names."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", identifier)[:128]


def main() -> None:
    name, corpus, start, count, ready = sys.argv[1:]
    with open(corpus, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, int(start), int(start) + int(count))]
    tools = [
        types.Tool(
            name=tool_name(row["_id"]),
            title=row.get("title") or None,
            description=row["text"],
            input_schema={"type": "object", "properties": {}},
        )
        for row in rows
    ]
    known = {tool.name for tool in tools}

    async def list_tools(context, params):
        first = int(params.cursor) if params and params.cursor else 0
        rest = first + PER_PAGE if first + PER_PAGE < len(tools) else None
        if rest is None:
            Path(ready).write_text(str(time.time()))
        return types.ListToolsResult(tools=tools[first : first + PER_PAGE], next_cursor=rest and str(rest))

    async def call(context, params):
        answer = {"server": name, "tool": params.name, "known": params.name in known, "pid": os.getpid()}
        return types.CallToolResult(content=[types.TextContent(type="text", text=json.dumps(answer))])

    async def serve():
        server = Server(name, on_list_tools=list_tools, on_call_tool=call)
        async with stdio_server() as streams:
            await server.run(*streams, server.create_initialization_options())

    anyio.run(serve)


if __name__ == "__main__":
    main()
