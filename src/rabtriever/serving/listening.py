"""Where a server listens, and whether others than this machine can reach it."""

from __future__ import annotations

import ipaddress
import os
import socket

from rabtriever.errors import InputError

BACKLOG = 2048  # connections that wait; uvicorn's own


def listen(host: str, port: int, given: str = "") -> socket.socket:
    """Returns a socket that listens; port 0 takes a free one. ``given`` is the option that messages name.

    Raises:
        InputError: the address cannot be used.
    """
    if not 0 <= port < 2**16:  # getaddrinfo would take the remainder
        raise InputError(f"{given or f'--port {port}'}: a port is a number from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # who connects before the server takes over waits, and is not refused
    except OSError as error:
        where = given or f"--host {host} --port {port}"
        raise InputError(f"{where}: cannot listen there ({error}); choose another") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Returns the URL of a listening socket."""
    return url_at(*listener.getsockname()[:2])


def url_at(host: str, port: int) -> str:
    """Returns the URL of a host, by its name or address, and a port."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def on_loopback(host: str, given: str = "") -> bool:
    """Returns whether every address of a host is this machine's own. ``given`` is the option that messages name.

    Raises:
        InputError: there is no such host.
    """
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        raise InputError(f"{given or f'--host {host}'}: no such host; give an address of this machine") from None
    return all(is_loopback(str(address[4][0])) for address in found)


def is_loopback(host: str) -> bool:
    """Returns whether a host's name is one of this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "")
