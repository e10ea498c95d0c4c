"""Calls of a shard's replicas: one that dies is replaced by another, and a shard without any is named at once."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from time import monotonic, sleep
from typing import Any

import numpy as np

from rabtriever.cluster.shards import Answer
from rabtriever.errors import InputError
from rabtriever.extras import needs
from rabtriever.index.search import SearchOptions
from rabtriever.serving.errors import APIError

with needs("cluster"):
    from ray import serve
    from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError
    from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
    from ray.serve.handle import DeploymentHandle

# What a call ends with if its process, or what holds its answer, is lost.
LOST = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
PATIENCE_SECONDS = 1.0  # without an answer before the controller is asked whether the shard still lives
STATUS_SECONDS = 0.5  # age at which what the controller said is asked for anew
RETRY_SECONDS = 0.05  # before another replica is asked
RETRY_AFTER = 2  # seconds that clients are told to wait


class Controller:
    """What Ray Serve's controller says of an application's deployments, asked seldom; thread-safe."""

    def __init__(self, application: str) -> None:
        self._application, self._lock = application, Lock()
        self._running: set[str] = set()
        self._asked = -STATUS_SECONDS

    def is_running(self, deployment: str) -> bool:
        """Returns whether a deployment has a replica that runs."""
        with self._lock:
            if monotonic() - self._asked > STATUS_SECONDS:
                found = serve.status().applications[self._application].deployments
                states = {name: one.replica_states.items() for name, one in found.items()}
                self._running = {name for name, of_it in states.items() if any(s == "RUNNING" and n for s, n in of_it)}
                self._asked = monotonic()
            return deployment in self._running


class ReplicatedShard:
    """A shard that Ray Serve's replicas answer for: a :class:`rabtriever.cluster.shards.SearchableShard`.

    Args:
        handle: Of the shard's deployment.
        controller: Knows whether it has a replica.
        name: For messages, such as ``shard 0 of 4``.
        timeout: Seconds that a call may take with all tries.
    """

    def __init__(self, handle: DeploymentHandle[Any], controller: Controller, name: str, timeout: float) -> None:
        self._controller, self._name, self._timeout = controller, name, timeout
        self._deployment = handle.deployment_name
        self._search, self._warm = (handle.options(method_name=method) for method in ("search", "warm"))
        self._down = False

    def search(self, texts: Sequence[str], vectors: np.ndarray, options: SearchOptions, version: int) -> Answer:
        """Finds rows, as :meth:`rabtriever.cluster.shards.Shard.search` does.

        Raises:
            APIError: 503, no replica is left, until there is one again; or none answers in time.
        """
        answer: Answer = self._call(self._search, texts, vectors, options, version)
        return answer

    def warm(self, version: int) -> None:
        """Lets one replica open a version; errors as of :meth:`search`."""
        self._call(self._warm, version)

    def _call(self, method: DeploymentHandle[Any], *args: object) -> Any:  # noqa: ANN401 - as the method's
        end = monotonic() + self._timeout
        if self._down:  # as the last call found: no need to wait for it again
            self._check(end)
        while True:
            response = method.remote(*args)
            try:
                return self._result(response, end)
            except RayTaskError as error:  # of the search itself
                if isinstance(error.cause, InputError):
                    raise error.cause from None
                raise
            except LOST:
                sleep(RETRY_SECONDS)  # Serve takes the replica off its list meanwhile
                self._check(end)

    def _result(self, response: Any, end: float) -> Any:  # noqa: ANN401
        while True:
            try:
                return response.result(timeout_s=PATIENCE_SECONDS)
            except TimeoutError:
                try:
                    self._check(end)
                except APIError:
                    response.cancel()
                    raise

    def _check(self, end: float) -> None:
        """Raises an APIError, 503, if the shard has no replica that runs, or the call's time is over."""
        self._down = not self._controller.is_running(self._deployment)
        if self._down:
            raise APIError(503, f"{self._name} has no live replica; try again soon", retry_after=RETRY_AFTER)
        if monotonic() > end:
            message = f"{self._name} did not answer within {self._timeout:g} s; try again"
            raise APIError(503, message, retry_after=RETRY_AFTER)
