"""Offer the tools of many MCP servers as two: search them, call one."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabtriever.choices import FEEDBACK_MODES
from rabtriever.cli.arguments import add_model_arguments, load_options, open_index, print_result
from rabtriever.errors import InputError
from rabtriever.extras import needs
from rabtriever.persistence.folder import normalized_uri
from rabtriever.persistence.object_store import is_uri

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mcp.server.lowlevel import Server as MCPServer

    from rabtriever.retriever import Rabtriever

KEYS_HELP = (
    "file with lines `write KEY`, of 16 characters or more, for --http; also $RABTRIEVER_WRITE_KEYS. A host beyond "
    "this machine needs one"
)
FEEDBACK_HELP = (
    "store which tools were called after which searches, for `rabtriever tune`: requests as texts, or as digests keyed "
    "by $RABTRIEVER_FEEDBACK_KEY, and their embeddings (default: off)"
)
APPROVE_HELP = "without a value, show the tools that changed, with what approves each, TOOL@DIGEST; given that, approve"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="FILE", help="JSON file with mcpServers, as MCP clients have it")
    what.add_argument("--index", metavar="URI", help="offer the documents of this index instead, as one tool")
    add_model_arguments(parser, "`tools`, another retriever, or an encoder such as minilm (default: tools)")
    parser.add_argument("--http", metavar="HOST:PORT", help="serve over HTTP (default: standard input and output)")
    parser.add_argument("--keys", metavar="FILE", help=KEYS_HELP)
    parser.add_argument("--rerank", type=int, metavar="N", help="let the reranker read the best N (default: none)")
    parser.add_argument("--state", metavar="FOLDER", help="approvals and the tools' index (default: one for each file)")
    parser.add_argument("--feedback", choices=FEEDBACK_MODES, default="off", help=FEEDBACK_HELP)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--approve", nargs="*", metavar="TOOL@DIGEST", help=APPROVE_HELP)
    instead.add_argument(
        "--rollback", action="store_true", help="unlearn what the last `rabtriever tune` learnt; then end"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    with needs("mcp"):
        import mcp  # noqa: F401
    if args.rerank is not None and args.rerank < 1:
        raise InputError(f"--rerank {args.rerank}: let the reranker read at least one tool", param="rerank")
    if args.index:
        of_tools = {"approve": None, "rollback": False, "feedback": "off", "state": None}
        for name in (name for name, default in of_tools.items() if getattr(args, name) != default):
            raise InputError(f"--{name} is of the tools of --config; leave it out with --index", param=name)
        return _serve_documents(args)
    if args.approve is not None:
        return _approve(args)
    if args.rollback:
        return _roll_back(args)
    _serve_tools(args)


def _serve_tools(args: argparse.Namespace) -> None:
    from rabtriever.mcp.feedback import Feedback
    from rabtriever.mcp.gateway import Gateway
    from rabtriever.mcp.pins import Pins
    from rabtriever.mcp.servers import GATEWAY
    from rabtriever.mcp.vectors import Vectors
    from rabtriever.persistence.hub import find_retriever
    from rabtriever.serving.feedback_mode import FeedbackMode
    from rabtriever.sources.mcp_config import read_servers

    if os.environ.get(GATEWAY):
        raise InputError(f"{args.config}: a gateway would start itself; leave it out of its own file of servers")
    servers, mode, model = read_servers(args.config), FeedbackMode(args.feedback), args.model or "tools"
    find_retriever(model)

    def load() -> Rabtriever:
        from rabtriever.retriever import Rabtriever

        return Rabtriever.from_pretrained(model, **load_options(args))

    state = _state(args)
    vectors = Vectors(state, load, args.rerank)
    command = f"rabtriever mcp --config {shlex.quote(args.config)}"
    command += f" --state {shlex.quote(args.state)}" if args.state else ""
    feedback = Feedback(mode, vectors) if mode.on else None
    gateway = Gateway(servers, Pins(state / "tools"), vectors, feedback, f"{command} --approve")
    _serve(args, gateway.server, gateway.running())


def _serve_documents(args: argparse.Namespace) -> None:
    from rabtriever.mcp.documents import DocumentServer

    args.uri = args.index
    _serve(args, DocumentServer(open_index(args), args.rerank).server, None)


def _serve(args: argparse.Namespace, server: MCPServer[Any], running: AbstractAsyncContextManager[None] | None) -> None:
    from rabtriever.mcp.serving import serve
    from rabtriever.serving.auth import APIKeys

    def listening(url: str) -> None:
        if args.json:
            print(json.dumps({"url": url}), flush=True)
        else:
            print(f"an MCP server at {url}; Ctrl-C ends it", file=sys.stderr, flush=True)

    serve(server, running, args.http, APIKeys(args.keys), listening)


def _approve(args: argparse.Namespace) -> None:
    from rabtriever.mcp.catalogue import Catalogue
    from rabtriever.mcp.pins import DIGITS, Pins, digest
    from rabtriever.mcp.plain import printable
    from rabtriever.sources.mcp_config import read_servers

    catalogue = Catalogue(read_servers(args.config), Pins(_state(args) / "tools"))
    changed = {tool.id: pin for tool, pin in catalogue.changed()}
    if args.approve:
        ids = catalogue.approve(args.approve)
        print_result(args, {"approved": ids}, f"approved: {', '.join(map(printable, ids))}")
        return
    lines, report = [], {}
    for id, pin in changed.items():
        given = f"{id}@{digest(pin.tool)[:DIGITS]}"
        report[id] = {"approved": pin.approved_tool, "now": pin.tool, "approve": given}
        lines += [printable(id), f"  approved: {_visible(pin.approved_tool)}", f"  now:      {_visible(pin.tool)}"]
        lines += [f"  --approve {printable(shlex.quote(given))}"]
    print_result(args, {"changed": report}, "\n".join(lines) or "no tool has changed")


def _visible(value: object) -> str:
    """Returns JSON as a terminal may print it."""
    from rabtriever.mcp.plain import printable

    return printable(json.dumps(value, ensure_ascii=False))


def _roll_back(args: argparse.Namespace) -> None:
    from rabtriever.index.learned import CURRENT, LearnedVersions

    state = _state(args)
    learned = sorted(state.glob(f"index-*/learned/{CURRENT}"), key=lambda path: path.stat().st_mtime)
    if not learned:
        raise InputError(f"{state}: nothing was learnt; there is nothing to go back to", param="rollback")
    uri = str(learned[-1].parents[1])
    version = LearnedVersions(uri).rollback()
    text = f"{uri}: " + (f"learned version {version}" if version else "its retriever as it was saved")
    print_result(args, {"index": uri, "version": version}, text)


def _state(args: argparse.Namespace) -> Path:
    """Returns where approvals and index are: a folder for each file of servers, unless one was given.

    It is no cache, which people clear: then all tools would count as new and be approved as they are.
    """
    if args.state:
        return Path(args.state).expanduser().absolute()
    uri = normalized_uri(args.config)
    place = uri if is_uri(uri) else str(Path(uri).resolve())
    home = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser().absolute()
    return home / "rabtriever" / "mcp" / f"{Path(place).stem}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
