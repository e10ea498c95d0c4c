"""Serve an index over HTTP, with a page to search it."""

from __future__ import annotations

import argparse
import json
import os
import sys

from rabtriever.choices import FEEDBACK_MODES
from rabtriever.cli.arguments import (
    add_config_arguments,
    add_index_arguments,
    add_ray_argument,
    config_from_args,
    load_options,
    require_ray,
)
from rabtriever.errors import InputError
from rabtriever.extras import needs
from rabtriever.serving.config import ServerConfig, ServerLimits

SHARDED = ("shards", "replicas", "routers")  # options of an index in shards


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_index_arguments(parser)
    host_help = "address to listen at (default: 127.0.0.1, this machine alone)"
    parser.add_argument("--host", default="127.0.0.1", help=host_help)
    parser.add_argument("--port", type=int, default=8080, help="port; 0 takes a free one (default: 8080)")
    keys = "file with lines `read KEY` or `write KEY`, the latter for both, of 16 characters or more; "
    keys += "also $RABTRIEVER_READ_KEYS and $RABTRIEVER_WRITE_KEYS"
    parser.add_argument("--keys", metavar="FILE", help=keys)
    insecure_help = "serve everyone who can reach the address, without keys"
    parser.add_argument("--insecure", action="store_true", help=insecure_help)
    cors_help = "let this origin's pages call; repeatable"
    parser.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help=cors_help)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with the LLM in memory (default: 1)")
    feedback_help = "store what POST /v1/feedback brings, in the index: queries as texts, or as digests keyed by "
    feedback_help += "$RABTRIEVER_FEEDBACK_KEY, and their embeddings (default: off)"
    parser.add_argument("--feedback", choices=FEEDBACK_MODES, default="off", help=feedback_help)
    add_config_arguments(parser, ServerLimits)
    sharded = parser.add_argument_group("an index in shards, on Ray Serve (docs/serve.md)")
    add_ray_argument(sharded)
    sharded.add_argument("--shards", type=int, metavar="N", help="parts of the index (default: 1)")
    replicas_help = "processes for each part; of two or more, one may die (default: 1)"
    sharded.add_argument("--replicas", type=int, metavar="N", help=replicas_help)
    sharded.add_argument("--routers", type=int, metavar="N", help="processes with the LLM in memory (default: 1)")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    require_ray(args, SHARDED)
    # Threads of NumPy's and torch's libraries would look for more work, for up to a tenth of a second after each
    # product, on cores that others need: a third of all time under load. They read this when they are first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with needs("serve"):
        from rabtriever.serving.listening import on_loopback
        from rabtriever.serving.server import serve

    config = ServerConfig(
        uri=args.uri,
        model=args.model,
        load_options=load_options(args),
        keys=args.keys,
        insecure=args.insecure,
        loopback=on_loopback(args.host),
        cors=tuple(args.cors),
        workers=args.workers,
        feedback=args.feedback,
        limits=config_from_args(args, ServerLimits),
    )

    def listening(url: str) -> None:
        if args.json:
            print(json.dumps({"url": url}), flush=True)
        else:
            print(f"{args.uri} at {url} (the API: {url}/docs); Ctrl-C ends it", file=sys.stderr, flush=True)

    if args.ray is None:
        serve(config, args.host, args.port, listening)
        return
    if args.workers != 1:
        raise InputError("--workers: goes without --ray; give --replicas and --routers")
    from rabtriever.cluster.serve import ShardedConfig, serve_shards

    numbers = {name: getattr(args, name) for name in SHARDED}
    given = {name: number for name, number in numbers.items() if number is not None}
    serve_shards(ShardedConfig(server=config, **given), args.host, args.port, listening, args.ray)
