"""The listening server: one process, or several that share a socket and the index's mapped files."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from rabtriever.errors import InputError
from rabtriever.index.table import Table
from rabtriever.persistence.hub import find_retriever
from rabtriever.serving.app import make_app
from rabtriever.serving.auth import APIKeys
from rabtriever.serving.config import ServerConfig
from rabtriever.serving.feedback_mode import FeedbackMode
from rabtriever.serving.listening import listen, url_of

CONFIG = "RABTRIEVER_SERVER_CONFIG"  # in the environment of worker processes
FAILED = "failed.txt"  # where a worker process leaves the reason, for its parent


def serve(config: ServerConfig, host: str, port: int, listening: Callable[[str], None]) -> None:
    """Serves until a signal comes; requests in progress are finished first.

    Args:
        config: The server's options.
        host: Name or address to listen at.
        port: To listen at; 0 takes a free one.
        listening: Called with the server's URL.

    Raises:
        InputError: no index or model, keys that cannot be read, an address that cannot be used, or one beyond this
            machine without a key; digests of feedback without a key.
    """
    check_config(config)
    if config.workers < 1:
        raise InputError(f"--workers {config.workers}: at least 1")
    with listen(host, port) as listener:
        listening(url_of(listener))
        _configure_logging()
        (_serve_here if config.workers == 1 else _serve_in_workers)(config, listener)


def check_config(config: ServerConfig) -> None:
    """Checks what can be checked before a model is loaded; errors as of :func:`serve`."""
    keys = APIKeys(config.keys)
    if not (config.loopback or keys or config.insecure):
        raise InputError("--host: reaches beyond this machine; give API keys (--keys), or --insecure to serve everyone")
    if "*" in config.cors and not keys:
        raise InputError("--cors *: any web page could use the index; give API keys (--keys), or name the origins")
    FeedbackMode(config.feedback)
    table = Table.open(config.uri)
    find_retriever(config.model or table.model_source())


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


def _serve_here(config: ServerConfig, listener: socket.socket) -> None:
    reasons: list[str] = []

    def failed(reason: str) -> None:
        reasons.append(reason)
        server.should_exit = True

    server = uvicorn.Server(uvicorn.Config(make_app(config, failed), **uvicorn_options(config)))
    server.run(sockets=[listener])
    if reasons:
        raise InputError(reasons[0])


def _serve_in_workers(config: ServerConfig, listener: socket.socket) -> None:
    os.environ[CONFIG] = config.to_json()
    with tempfile.TemporaryDirectory(prefix="rabtriever-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        app, options = "rabtriever.serving.server:worker_app", uvicorn_options(config)
        listener.set_inheritable(True)
        Multiprocess(uvicorn.Config(app, factory=True, workers=config.workers, **options), sockets=[listener]).run()
        if (Path(folder) / FAILED).is_file():
            raise InputError((Path(folder) / FAILED).read_text(encoding="utf-8"))


def worker_app() -> ASGIApp:
    """Builds the application of a worker process, whose options its parent left in the environment."""
    _configure_logging()

    def failed(reason: str) -> None:
        (Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / FAILED).write_text(reason, encoding="utf-8")
        os.kill(os.getppid(), signal.SIGTERM)  # it would start new workers for ever

    return make_app(ServerConfig.from_json(os.environ[CONFIG]), failed)


def uvicorn_options(config: ServerConfig) -> dict[str, Any]:
    """Returns uvicorn's options."""
    return {
        "http": "h11",  # bounds what headers may take, which httptools does not
        "limit_concurrency": 1000,  # connections
        "log_level": "warning",
        "access_log": False,  # paths hold ids
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": 75,  # seconds of an idle connection; longer than what is usual in load balancers
        "timeout_graceful_shutdown": max(1, int(config.limits.timeout)),
    }
