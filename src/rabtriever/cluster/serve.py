"""An index in shards on Ray Serve: a deployment for each shard, and routers with the server's own application.

``deploy/ray-serve.yaml`` runs :func:`app`; ``rabtriever serve --ray`` runs :func:`serve_shards`. The routers hold the
model and no part of the index, the shards a part of the index and no model.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any

from rabtriever.cluster.session import LOCAL, connected
from rabtriever.cluster.shard_server import ShardServer
from rabtriever.cluster.shards import ShardedIndex
from rabtriever.errors import InputError, first_line
from rabtriever.extras import needs
from rabtriever.persistence.folder import absolute_path
from rabtriever.serving.app import load_retriever, make_app
from rabtriever.serving.config import ServerConfig, ServerLimits
from rabtriever.serving.errors import APIError
from rabtriever.serving.feedback_mode import KEY as FEEDBACK_KEY
from rabtriever.serving.listening import listen, on_loopback, url_at
from rabtriever.serving.server import check_config

with needs("cluster"):
    from ray import serve
    from starlette.types import ASGIApp

    from rabtriever.cluster.replicas import Controller, ReplicatedShard

APPLICATION = "rabtriever"
SECRETS = ("RABTRIEVER_READ_KEYS", "RABTRIEVER_WRITE_KEYS", FEEDBACK_KEY)  # of the environment, which routers need
ROUTER_REQUESTS, SHARD_SEARCHES = 1000, 8  # that a replica takes at a time
HEALTH_SECONDS = 1.0  # between checks; a replica that died is replaced that soon


@dataclass(frozen=True, kw_only=True)
class ShardedConfig:
    """What is served, and by how many processes.

    Attributes:
        server: The server's options.
        shards: Parts of the index.
        replicas: Processes for each part, which share its traffic; with two or more, one may die.
        routers: Processes with the model, likewise.
        shard_options: Ray's options of a shard's process, such as ``num_cpus`` and ``memory``.
        router_options: Likewise of a router's.

    Raises:
        InputError: a number below 1.
    """

    server: ServerConfig
    shards: int = 1
    replicas: int = 1
    routers: int = 1
    shard_options: Mapping[str, Any] = field(default_factory=dict)
    router_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name in ("shards", "replicas", "routers"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: at least 1", param=name)

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> ShardedConfig:
        """Reads the arguments of a declarative configuration: fields of this class and of its ``server``.

        Raises:
            InputError: an argument that does not exist or has a value of another type, or no ``uri``.
        """
        own = {one.name for one in fields(cls)} - {"server"}
        of_server = {one.name for one in fields(ServerConfig)} - {"loopback", "workers"}
        limits = args.get("limits", {})
        if not isinstance(limits, Mapping):
            raise _wrong_type("limits", "an object of names and numbers", limits)
        unknown = sorted(set(args) - own - of_server) + sorted(set(limits) - {one.name for one in fields(ServerLimits)})
        if unknown or "uri" not in args:
            fault = f"no argument {unknown[0]!r}" if unknown else "no uri"
            raise InputError(f"args: {fault}; give uri and some of {', '.join(sorted(own | of_server))}")
        _check_types(args)
        server = {name: value for name, value in args.items() if name in of_server}
        server |= {"cors": tuple(args.get("cors", ())), "limits": ServerLimits(**limits)}
        return cls(server=ServerConfig(**server), **{name: value for name, value in args.items() if name in own})


def _check_types(args: Mapping[str, Any]) -> None:
    """Raises InputError for a value that would fail later, or mean something else."""
    for name in ("shards", "replicas", "routers"):
        if type(value := args.get(name, 1)) is not int:  # a bool is none
            raise _wrong_type(name, "an integer", value)
    cors = args.get("cors", [])
    if not isinstance(cors, list | tuple) or not all(isinstance(origin, str) for origin in cors):
        raise _wrong_type("cors", "a list of origins", cors)
    for name, value in args.get("limits", {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong_type(f"limits: {name}", "a number", value)


def _wrong_type(name: str, expected: str, value: object) -> InputError:
    return InputError(f"args: {name}: {value!r} is of another type; give {expected}", param=name)


class Router:
    """The server's application over the shards; it is ready when its model is loaded and all shards answer."""

    def __init__(self, config: ServerConfig, secrets: Mapping[str, str], *shards: Any) -> None:  # noqa: ANN401 - handles
        os.environ.update(secrets)
        address = _listening()
        self._config = replace(config, loopback=address is not None and on_loopback(address[0]))
        check_config(self._config)
        controller = Controller(serve.get_replica_context().app_name)
        names = [f"shard {number} of {len(shards)}" for number in range(len(shards))]
        timeout = config.limits.timeout / 2
        asked = [ReplicatedShard(shard, controller, name, timeout) for shard, name in zip(shards, names, strict=True)]
        self._index = ShardedIndex(config.uri, load_retriever(config), asked)
        while True:
            try:
                self._index.warm()
                return
            except APIError:  # a shard is not ready yet; one that never will be fails by itself
                sleep(0.2)

    def __serve_build_asgi_app__(self) -> ASGIApp:  # noqa: PLW3201 - Serve's name
        """Returns the application."""

        def failed(reason: str) -> None:
            raise RuntimeError(reason)

        return make_app(self._config, failed, self._index)


def app(args: dict[str, Any]) -> serve.Application:
    """Builds the Serve application; its arguments are those of :meth:`ShardedConfig.from_args`."""
    return _bind(ShardedConfig.from_args(args))


def _bind(config: ShardedConfig) -> serve.Application:
    secrets = {name: os.environ[name] for name in SECRETS if name in os.environ}
    shards = [
        serve.deployment(
            name=f"shard-{number}",
            num_replicas=config.replicas,
            max_ongoing_requests=SHARD_SEARCHES,
            ray_actor_options=dict(config.shard_options),
            health_check_period_s=HEALTH_SECONDS,
        )(ShardServer).bind(config.server.uri, number, config.shards)
        for number in range(config.shards)
    ]
    router = serve.deployment(
        name="router",
        num_replicas=config.routers,
        max_ongoing_requests=ROUTER_REQUESTS,
        ray_actor_options=dict(config.router_options),
        health_check_period_s=HEALTH_SECONDS,
    )(serve.ingress()(Router))
    return router.bind(config.server, secrets, *shards)


def serve_shards(
    config: ShardedConfig, host: str, port: int, listening: Callable[[str], None], address: str = LOCAL
) -> None:
    """Serves on a Ray cluster until a signal comes.

    Args:
        config: What is served.
        host: Name or address to listen at, on the cluster's nodes.
        port: Likewise; of a cluster of this machine alone 0 takes one that is free.
        listening: Called with the server's URL when all processes are ready. Where the cluster serves something else
            already, that is where its own HTTP options say.
        address: The cluster, as of :func:`rabtriever.cluster.session.connected`.

    Raises:
        InputError: as of :func:`rabtriever.serving.server.serve`; no cluster; it serves an application of ours already;
            or the processes cannot be started.
    """
    server = config.server
    keys, model = (path and _absolute(path) for path in (server.keys, server.model))
    config = replace(config, server=replace(server, uri=_absolute(server.uri), keys=keys, model=model))
    check_config(config.server)
    if address == LOCAL:  # all processes share this machine: Ray has nothing to place
        with closing(listen(host, port)) as listener:
            port = listener.getsockname()[1]
        config = replace(config, shard_options={"num_cpus": 0}, router_options={"num_cpus": 0})
    elif not 0 < port < 2**16:
        raise InputError(f"--port {port}: all nodes of a cluster listen at the same; give one from 1 to 65535")
    # Ray forks to start processes, which run something else at once: the open table does them no harm.
    warnings.filterwarnings("ignore", "lancedb fork support")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    stop = Event()
    with connected(address):
        if APPLICATION in serve.status().applications:
            remedy = "end it first (`serve shutdown`, or Ctrl-C where it was started), or take another cluster"
            raise InputError(f"--ray {address}: an application {APPLICATION!r} is served there already; {remedy}")
        try:
            serve.start(http_options={"host": host, "port": port})
            serve.run(_bind(config), name=APPLICATION, route_prefix="/")
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            listening(url_at(*(_listening() or (host, port))))
            stop.wait()
        except RuntimeError as error:
            raise InputError(f"--ray: the server's processes cannot be started: {_reason(error)}") from None
        finally:
            serve.delete(APPLICATION)
            if address == LOCAL and not serve.status().applications:
                serve.shutdown()


def _listening() -> tuple[str, int] | None:
    """Returns host and port of the cluster's proxies: options of a Serve that ran before count, not ours.

    None: unknown, or there are none; so nobody can say that others do not reach them.
    """
    client = serve.context._get_global_client()
    return (client.http_config.host, client.http_config.port) if client and client.http_config.host else None


def _reason(error: RuntimeError) -> str:
    """Returns the error of a process that did not start; Serve's own says only which deployment it was of."""
    ours = serve.status().applications.get(APPLICATION)
    messages = [one.message for one in ours.deployments.values()] if ours else []
    lines = [line for text in messages for line in text.splitlines() if re.match(r"\w[\w.]*Error: ", line)]
    return lines[-1] if lines else first_line(error)


def _absolute(name: str) -> str:
    """Returns the absolute path of a file or folder of this machine; another name as it is."""
    return str(absolute_path(name)) if Path(name).expanduser().exists() else name
