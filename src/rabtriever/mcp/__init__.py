"""A gateway that offers the tools of many MCP servers as two: search them, call one."""
