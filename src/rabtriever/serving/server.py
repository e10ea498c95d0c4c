"""Listen: one process, or several that share a socket and the index's mapped files."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from rabtriever.errors import InputError
from rabtriever.index.table import Store
from rabtriever.persistence.folder import read_config
from rabtriever.serving.app import FAILED, LOGGING, SETTINGS, make_app
from rabtriever.serving.auth import APIKeys
from rabtriever.serving.config import ServerConfig
from rabtriever.serving.middleware import is_loopback

BACKLOG = 2048
CONNECTIONS = 1000
KEPT = 75  # seconds that an idle connection is kept; longer than what is usual in load balancers


def serve(settings: ServerConfig, host: str, port: int, listening: Callable[[str], None]) -> None:
    """Serve until a signal comes; what is in flight is finished first.

    Args:
        settings: What to serve.
        host: Name or address to listen at.
        port: To listen at; 0 takes a free one.
        listening: Called with the server's URL.

    Raises:
        InputError: no index or model, keys that cannot be read, an address that cannot be used, or one beyond this
            machine without a key.
    """
    check(settings)
    with _bound(host, port) as listener:
        name, number = listener.getsockname()[:2]
        listening(f"http://{f'[{name}]' if ':' in name else name}:{number}")
        logging.basicConfig(**LOGGING)
        if settings.workers == 1:
            return _one(settings, listener)
    _several(settings, name, number)


def check(settings: ServerConfig) -> None:
    """Find out at once, and without loading it, whether this can be served.

    Raises:
        InputError: as :func:`serve`.
    """
    keys = APIKeys.load(settings.keys)
    if not (settings.loopback or keys or settings.insecure):
        raise InputError("--host: reaches beyond this machine; give API keys (--keys), or --insecure to serve everyone")
    if "*" in settings.cors and not keys:
        raise InputError("--cors *: any web page could use the index; give API keys (--keys), or name the origins")
    if settings.workers < 1:
        raise InputError(f"--workers {settings.workers}: at least 1")
    own = Store.open(settings.uri).model.source
    if settings.model or own:
        read_config(settings.model or own or "")
    else:
        raise InputError(f"{settings.uri}: does not tell where its model lies; give the retriever (--model)")


def _bound(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: a port is a number from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there ({error}); choose another") from None
    return listener


def _one(settings: ServerConfig, listener: socket.socket) -> None:
    reasons: list[str] = []

    def failed(reason: str) -> None:
        reasons.append(reason)
        server.should_exit = True

    server = uvicorn.Server(uvicorn.Config(make_app(settings, failed), **options(settings)))
    server.run(sockets=[listener])
    if reasons:
        raise InputError(reasons[0])


def _several(settings: ServerConfig, host: str, port: int) -> None:
    os.environ[SETTINGS] = settings.to_json()
    with tempfile.TemporaryDirectory(prefix="rabtriever-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        app = "rabtriever.serving.app:worker_app"
        uvicorn.run(app, factory=True, host=host, port=port, workers=settings.workers, **options(settings))
        if (Path(folder) / FAILED).is_file():
            raise InputError((Path(folder) / FAILED).read_text(encoding="utf-8"))


def options(settings: ServerConfig) -> dict[str, Any]:
    """Uvicorn's."""
    return {
        "http": "h11",  # bounds what headers may take, which httptools does not
        "limit_concurrency": CONNECTIONS,
        "log_level": "warning",
        "access_log": False,  # paths hold ids
        "server_header": False,
        "proxy_headers": False,
        "backlog": BACKLOG,
        "timeout_keep_alive": KEPT,
        "timeout_graceful_shutdown": max(1, int(settings.limits.timeout)),
    }


def on_loopback(host: str) -> bool:
    """Whether every address of a host is this machine's own.

    Raises:
        InputError: there is no such host.
    """
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        raise InputError(f"--host {host}: no such host; give an address of this machine") from None
    return all(is_loopback(str(address[4][0])) for address in found)
