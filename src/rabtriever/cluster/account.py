"""One account of requests to a server for all workers of a cluster."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

from rabtriever.errors import InputError, RemoteError, first_line
from rabtriever.extras import needs
from rabtriever.rerankers.remote.budget import Charge, LocalAccount, Permit, Totals
from rabtriever.rerankers.remote.options import RemoteOptions


class SharedAccount:
    """An :class:`~rabtriever.rerankers.remote.budget.Account` in an actor, which every worker that has this one asks.

    It lives on the machine of the command, and as long as that: what was counted is never lost while the job goes on.

    Args:
        options: Prices and cap, rate limit and most requests in flight, of all workers together.
    """

    def __init__(self, options: RemoteOptions) -> None:
        with needs("cluster"):
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0)(LocalAccount)
        name = f"rabtriever-account-{uuid4().hex[:8]}"  # for the dashboard
        self._actor = actor.options(name=name, scheduling_strategy=here).remote(options)

    def reserve(self, n_bytes: int) -> Permit:
        """See :meth:`Account.reserve`."""
        return cast(Permit, self._ask("reserve", n_bytes))

    def settle(self, number: int, charge: Charge) -> None:
        """See :meth:`Account.settle`."""
        self._ask("settle", number, charge)

    def pause(self, seconds: float) -> None:
        """See :meth:`Account.pause`."""
        self._ask("pause", seconds)

    def totals(self) -> Totals:
        """See :meth:`Account.totals`."""
        return cast(Totals, self._ask("totals"))

    def _ask(self, method: str, *arguments: Any) -> Any:  # noqa: ANN401
        import ray

        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            raise
        except ray.exceptions.RayActorError as error:
            fault = f"the account of its requests is gone ({first_line(error)})"
            raise RemoteError(f"{fault}; run the same command again: what was answered is kept") from None
