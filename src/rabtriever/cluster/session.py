"""A connection to a Ray cluster, or one that lives as long as the command on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rabtriever.errors import InputError, first_line
from rabtriever.extras import needs
from rabtriever.threads import available_cores

LOCAL = "local"  # as an address: a cluster of this machine alone
CONNECT_SECONDS = 10.0


@contextmanager
def connected(address: str = LOCAL) -> Iterator[None]:
    """Connects this process to a Ray cluster while the context lasts; one that is connected already stays so.

    Args:
        address: ``local``: one that this process starts on this machine; ``auto``: the one that runs here; or
            ``host:port`` and ``ray://host:port`` of another.

    Raises:
        InputError: no cluster there.
        MissingExtraError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send a report over the network
    with needs("cluster"):
        import ray
    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {"num_cpus": available_cores(), "include_dashboard": False} if address == LOCAL else {}
    try:
        _require_reachable(address)
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except (OSError, RuntimeError, ValueError) as error:
        remedy = "start one with `ray start --head`, or leave the address out to use this machine"
        raise InputError(f"--ray {address}: no Ray cluster there ({first_line(error)}); {remedy}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Raises OSError or ValueError if nothing listens at ``host:port``: Ray itself would try for many minutes."""
    if address in (LOCAL, "auto"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        raise ValueError("write it as host:port")
    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
