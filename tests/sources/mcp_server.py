"""An MCP server for the tests, two tools in pages of one; as a program it speaks over standard input and output."""

import anyio
from mcp import types
from mcp.server import Server
from mcp.server.stdio import stdio_server

TOOLS = [
    types.Tool(name="wipe", description="Wipes up a spill.", input_schema={"type": "object"}),
    types.Tool(
        name="light",
        description="Switches a lamp.",
        input_schema={"type": "object", "properties": {"room": {"description": "where"}}},
    ),
]


async def list_tools(context, params):
    start = int(params.cursor) if params and params.cursor else 0
    following = str(start + 1) if start + 1 < len(TOOLS) else None
    return types.ListToolsResult(tools=TOOLS[start : start + 1], next_cursor=following)


server = Server("home", on_list_tools=list_tools)


async def main():
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(main)
