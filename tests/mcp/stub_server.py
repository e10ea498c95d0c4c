"""An MCP server for tests, written with the official SDK: ``stub_server.py NAME TOOLS.json [HTTP_PORT]``.

TOOLS.json maps each tool's name to its description; it is read again at every listing, so a test changes it. A tool
answers with the server's name, its own and the arguments. Some names do more: see ``call``.
"""

import json
import os
import sys
from pathlib import Path

import anyio
import mcp_types as types
import uvicorn
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ToolsListChanged

NAME, TOOLS = sys.argv[1], Path(sys.argv[2])
PER_PAGE = 2
bus = InMemorySubscriptionBus()
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer", "description": "a number"}}}


async def list_tools(context, params):
    tools = list(json.loads(TOOLS.read_text()).items())
    start = int(params.cursor) if params and params.cursor else 0
    page = [
        types.Tool(name=name, description=description, input_schema=SCHEMA)
        for name, description in tools[start : start + PER_PAGE]
    ]
    rest = str(start + PER_PAGE) if start + PER_PAGE < len(tools) else None
    return types.ListToolsResult(tools=page, next_cursor=rest)


async def call(context, params):
    answer = {"server": NAME, "tool": params.name, "arguments": params.arguments, "pid": os.getpid()}
    match params.name:
        case "fail":
            return types.CallToolResult(content=[types.TextContent(type="text", text="it failed")], is_error=True)
        case "protocol_error":
            raise MCPError(types.INVALID_PARAMS, "x is missing", {"x": None})
        case "die":
            os._exit(1)
        case "count":
            for step in range(3):
                await context.session.report_progress(step, 3, f"step {step}")
        case "sleep":
            await context.session.report_progress(0, 1, "asleep")
            try:
                await anyio.sleep(60)
            except anyio.get_cancelled_exc_class():
                TOOLS.with_suffix(".cancelled").touch()
                raise
        case "announce":
            await context.session.send_tool_list_changed()
            await bus.publish(ToolsListChanged())
    text = types.TextContent(type="text", text=json.dumps(answer))
    return types.CallToolResult(content=[text], structured_content=answer)


server = Server(NAME, on_list_tools=list_tools, on_call_tool=call, on_subscriptions_listen=ListenHandler(bus))


async def over_stdio():
    async with stdio_server() as streams:
        options = server.create_initialization_options(NotificationOptions(tools_changed=True))
        await server.run(*streams, options)


if len(sys.argv) > 3:
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=int(sys.argv[3]), log_level="error")
else:
    anyio.run(over_stdio)
