"""The two tools that clients see, the same for whatever servers are behind them, and how a search is answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import mcp_types as types

from rabtriever.errors import InputError, shorten
from rabtriever.mcp.search import Answer, Found

MAX_K, DEFAULT_K = 50, 5

INSTRUCTIONS = (
    "Many tools are behind this server. Find one with search_tools, then run it with call_tool. "
    "Search before you say that something cannot be done."
)

_FOUND = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "What call_tool takes."},
        "title": {"type": ["string", "null"]},
        "description": {"type": "string"},
        "inputSchema": {"type": "object", "description": "JSON schema of the arguments."},
        "match": {"enum": ["name", "meaning", "words"], "description": "What it was found by."},
        "probability": {"type": ["number", "null"], "description": "That it serves the request; only by meaning."},
        "available": {"type": "boolean", "description": "False while its server is away."},
        "changed": {
            "type": "boolean",
            "description": "Its server gives another text than the approved one, which is shown; it cannot be called.",
        },
    },
    "required": ["name", "description", "inputSchema", "match", "probability", "available", "changed"],
}

SEARCH_TOOLS = types.Tool(
    name="search_tools",
    title="Search tools",
    description=(
        "Finds tools by what they should do, in your own words, or by name. Returns the best ones with the JSON schema "
        "of their arguments, ready for call_tool. Says how many tools there are in all, and when no tool fits."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "request": {"type": "string", "description": "What the tool should do, or its name."},
            "k": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_K,
                "default": DEFAULT_K,
                "description": "How many tools to return at most.",
            },
        },
        "required": ["request"],
    },
    output_schema={
        "type": "object",
        "properties": {
            "tools": {"type": "array", "items": _FOUND, "description": "Best first; empty if no tool fits."},
            "closest": {"type": "array", "items": _FOUND, "description": "What came closest, if no tool fits."},
            "fits": {
                "type": ["boolean", "null"],
                "description": "Whether any tool fits; null while only words are compared.",
            },
            "total": {"type": "integer", "description": "Number of all tools."},
            "more": {"type": "boolean", "description": "Whether more tools match than are shown."},
            "starting": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Servers whose tools are not known yet.",
            },
        },
        "required": ["tools", "closest", "fits", "total", "more", "starting"],
    },
    annotations=types.ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
)

CALL_TOOL = types.Tool(
    name="call_tool",
    title="Call a tool",
    description="Runs a tool that search_tools found, and returns what it returns.",
    input_schema={
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "As search_tools gives it, such as github.create_issue."},
            "arguments": {"type": "object", "description": "As the tool's inputSchema says.", "default": {}},
        },
        "required": ["name"],
    },
)


def search_result(answer: Answer, starting: Sequence[str]) -> types.CallToolResult:
    """Returns the answer of a search: for programs, and as text for models that read no structure."""
    shown = [_describe(one) for one in answer.found]
    no_fit = answer.fits is False
    structured = {
        "tools": [] if no_fit else shown,
        "closest": shown if no_fit else [],
        "fits": answer.fits,
        "total": answer.total,
        "more": answer.matched > len(shown),
        "starting": list(starting),
    }
    lines = [_headline(answer), *([f"Still starting: {', '.join(starting)}."] if starting else [])]
    text = "\n".join([*lines, *(_text(rank, one) for rank, one in enumerate(answer.found, 1))])
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], structured_content=structured)


def error_result(message: str) -> types.CallToolResult:
    """Returns a failed call's answer, which a model reads."""
    return types.CallToolResult(content=[types.TextContent(type="text", text=message)], is_error=True)


def read_text(given: Mapping[str, Any], name: str) -> str:
    """Returns what a search is for; raises InputError if it is missing or blank."""
    text = given.get(name)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{name} is {shorten(text)}; say what you are looking for", param=name)
    return text


def read_k(given: Mapping[str, Any]) -> int:
    """Returns how many hits a search shall return at most; raises InputError if that is out of range."""
    k = given.get("k", DEFAULT_K)
    if isinstance(k, float) and k.is_integer():
        k = int(k)
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_K:
        raise InputError(f"k is {shorten(k)}; give a whole number from 1 to {MAX_K}", param="k")
    return k


def _describe(found: Found) -> dict[str, Any]:
    tool = found.tool
    return {
        "name": tool.id,
        "title": tool.fields.get("title"),
        "description": tool.fields.get("description") or "",
        "inputSchema": tool.fields.get("inputSchema") or {"type": "object"},
        "match": found.match,
        "probability": None if found.probability is None else round(found.probability, 4),
        "available": tool.available,
        "changed": tool.changed,
    }


def _headline(answer: Answer) -> str:
    shown, total = len(answer.found), f"{answer.total} tool{'s' * (answer.total != 1)}"
    if not shown:
        remedy = "say it in other words, or by the name of a tool" if answer.total else "no server has listed any yet"
        return f"None of {total} shares a word with the request: {remedy}."
    if answer.fits is False:
        return f"No tool of {answer.total} fits this request. Closest:"
    more = "; more match, ask with a greater k" if answer.matched > shown else ""
    by_words = "; by words alone, which cannot tell whether any fits" if answer.found[0].match == "words" else ""
    return f"{shown} of {total}, best first{more}{by_words}:"


def _text(rank: int, found: Found) -> str:
    described = _describe(found)
    notes = ["its name"] if found.match == "name" else []
    notes += [f"{found.probability:.0%}"] if found.probability is not None else []
    notes += [] if described["available"] else ["its server is away"]
    notes += ["its server changed it after this was approved, cannot be called"] if described["changed"] else []
    head = f"\n{rank}. {described['name']}" + (f" ({', '.join(notes)})" if notes else "")
    schema = json.dumps(described["inputSchema"], ensure_ascii=False, separators=(",", ":"))
    return "\n".join(part for part in (head, described["description"].strip(), f"arguments: {schema}") if part)
