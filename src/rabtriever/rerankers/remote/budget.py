"""What requests cost and when they may be sent: counted, capped and paced, in one process or over several."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock
from typing import NamedTuple, Protocol

from rabtriever.errors import InputError
from rabtriever.rerankers.remote.options import RemoteOptions

BYTES_PER_TOKEN = 3  # where a server does not count; English has 4 to 5
ASK_AGAIN = 0.05  # seconds until a request that found no room asks for it again
LEASE_TIMEOUTS = 5  # a request takes less; who has not told its end by then is gone, as a machine that was killed


class Stopped(Exception):  # noqa: N818
    """A request was given up because another one failed."""


class Permit(NamedTuple):
    """Leave to send one request now, or when to ask again.

    Attributes:
        number: Names it; 0 if no request may be sent now.
        wait: Seconds after which to ask again.
    """

    number: int
    wait: float = 0.0


@dataclass
class Charge:
    """A request on its way; whoever sends it says how it went.

    Attributes:
        sent: Whether it was sent at all.
        paid: Whether it may have been billed; one that was refused is not, one without an answer may be.
        tokens: Tokens that the server counted; None if it did not say.
    """

    sent: bool = True
    paid: bool = True
    tokens: int | None = None


class Totals(NamedTuple):
    """What was paid, in the prices' currency; requests sent; whether tokens had to be estimated."""

    cost: float = 0.0
    calls: int = 0
    is_estimated: bool = False


class Account(Protocol):
    """Where requests to one server are counted. No method blocks."""

    def reserve(self, n_bytes: int) -> Permit:
        """Lets a request of so many bytes of text be sent, if it is its turn and there is room for it.

        Raises:
            InputError: it could pass the cap.
        """

    def settle(self, number: int, charge: Charge) -> None:
        """Says how the request with a permit went."""

    def pause(self, seconds: float) -> None:
        """Lets no further request be sent for so long."""

    def totals(self) -> Totals:
        """Returns what was paid so far."""


class LocalAccount:
    """The account of this process's threads.

    Args:
        options: Prices and cap, rate limit, most requests in flight. One request counts as one, however many the server
            makes of it.
    """

    def __init__(self, options: RemoteOptions) -> None:
        self._options, self._totals, self._lock = options, Totals(), Lock()
        self._interval = 60 / options.requests_per_minute if options.requests_per_minute else 0.0
        self._in_flight: dict[int, tuple[int, float]] = {}  # permit -> its bytes, and when it lapses
        self._numbers, self._next = 0, 0.0

    def reserve(self, n_bytes: int) -> Permit:
        """See :meth:`Account.reserve`; at most the price of as many tokens as there are bytes is set aside."""
        with self._lock:
            now = time.monotonic()
            for number, (_, lapses) in list(self._in_flight.items()):
                if lapses < now:
                    self._settle(number, Charge())
            reserved = sum(self._price(size) for size, _ in self._in_flight.values())
            cap, worst = self._options.max_cost, reserved + self._price(n_bytes)
            if cap is not None and self._totals.cost + worst > cap + 1e-12:  # sums of prices are rounded
                if self._in_flight:  # which may turn out cheaper
                    return Permit(0, ASK_AGAIN)
                fault = f"the next request could pass it, {self._totals.cost:.6g} are spent; what was answered is kept"
                raise InputError(f"max_cost {cap:g}: {fault}; raise it to go on", param="max_cost")
            if len(self._in_flight) >= self._options.concurrency:
                return Permit(0, ASK_AGAIN)
            if now < self._next:  # no leave is given ahead, which a pause could not take back
                return Permit(0, self._next - now)
            self._next = now + self._interval
            self._numbers += 1
            self._in_flight[self._numbers] = n_bytes, now + LEASE_TIMEOUTS * self._options.timeout
            return Permit(self._numbers)

    def settle(self, number: int, charge: Charge) -> None:
        """See :meth:`Account.settle`."""
        with self._lock:
            self._settle(number, charge)

    def pause(self, seconds: float) -> None:
        """See :meth:`Account.pause`."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def totals(self) -> Totals:
        """See :meth:`Account.totals`."""
        return self._totals

    def _settle(self, number: int, charge: Charge) -> None:
        n_bytes, _ = self._in_flight.pop(number, (None, 0.0))
        if n_bytes is None or not charge.sent:  # lapsed, and settled then
            return
        cost, calls, is_estimated = self._totals
        if charge.paid:
            cost += self._price(n_bytes / BYTES_PER_TOKEN if charge.tokens is None else charge.tokens)
            is_estimated |= self._options.price_per_million_tokens > 0 and charge.tokens is None
        self._totals = Totals(cost, calls + 1, is_estimated)

    def _price(self, tokens: float) -> float:
        return self._options.price_per_1000_requests / 1000 + self._options.price_per_million_tokens * tokens / 1e6


class Budget:
    """Sends requests on an account, when it is their turn. Safe for threads.

    Args:
        options: What the account of this process alone is made of.
        account: Another one, which is shared.
    """

    def __init__(self, options: RemoteOptions, account: Account | None = None) -> None:
        self._account = account or LocalAccount(options)

    @property
    def cost(self) -> float:
        """What was paid, in the prices' currency."""
        return self._account.totals().cost

    @property
    def calls(self) -> int:
        """Requests sent, those that failed included."""
        return self._account.totals().calls

    @property
    def is_estimated(self) -> bool:
        """Whether tokens were estimated, from the bytes of the texts, because a server did not count them."""
        return self._account.totals().is_estimated

    @contextmanager
    def charge(self, n_bytes: int, stop: Event | None = None) -> Iterator[Charge]:
        """Waits for a request's turn and counts it while it is on its way.

        Args:
            n_bytes: Of its text.
            stop: Set to give up before it is sent.

        Raises:
            InputError: it could pass the cap.
            Stopped: ``stop`` was set.
        """
        charge, stop = Charge(), stop or Event()
        while not (permit := self._account.reserve(n_bytes)).number:
            if stop.wait(permit.wait):
                raise Stopped
        try:
            if stop.is_set():
                charge.sent = False
                raise Stopped
            yield charge
        finally:
            self._account.settle(permit.number, charge)

    def pause(self, seconds: float) -> None:
        """Lets nobody send for so long."""
        self._account.pause(seconds)
