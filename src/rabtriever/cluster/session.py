"""A connection to a Ray cluster, or one that lives as long as the command on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rabtriever.errors import InputError, first_line
from rabtriever.extras import needs
from rabtriever.threads import available_cores

LOCAL = "local"  # as an address: a cluster of this machine alone
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # what Ray reads
CONNECT_SECONDS = 10.0


@contextmanager
def connected(address: str = LOCAL) -> Iterator[None]:
    """Connects this process to a Ray cluster while the context lasts; one that is connected already stays so.

    Whoever reaches a cluster runs code on it, and Ray listens on all addresses of a machine. So one that is started
    here has a random token that only this process and its children know.

    Args:
        address: ``local``: one that this process starts on this machine; ``auto``: the one that runs here; or
            ``host:port`` and ``ray://host:port`` of another.

    Raises:
        InputError: no cluster there.
        MissingExtraError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send a report over the network
    if address == LOCAL:
        _require_token()
    with needs("cluster"):
        import ray
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"logging_level": logging.WARNING}
    if address == LOCAL:  # Ray would warn that its default is to ask for a token
        options = {"logging_level": logging.ERROR, "num_cpus": available_cores(), "include_dashboard": False}
    try:
        _require_reachable(address)
        ray.init(address, log_to_driver=False, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        remedy = "start one with `ray start --head`, or leave the address out to use this machine"
        raise InputError(f"--ray {address}: no Ray cluster there ({first_line(error)}); {remedy}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _require_token() -> None:
    """Lets the cluster that is started ask for a token, unless the environment says what it asks for.

    The mode is left to Ray, whose default it is for a cluster of this process: Ray has read the variable already if it
    has been imported, and reads it again only where it sets it itself.
    """
    if not any(name in os.environ for name in AUTHENTICATION):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _require_reachable(address: str) -> None:
    """Raises OSError or ValueError if nothing listens at ``host:port``: Ray itself would try for many minutes."""
    if address in (LOCAL, "auto"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        raise ValueError("write it as host:port")
    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
