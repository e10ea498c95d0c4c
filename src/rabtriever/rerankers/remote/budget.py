"""What requests cost, counted and capped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

from rabtriever.errors import InputError
from rabtriever.rerankers.remote.options import RemoteOptions

BYTES_PER_TOKEN = 3  # where a server does not count; English has 4 to 5


@dataclass
class Charge:
    """A request on its way; whoever sends it says how it went.

    Attributes:
        paid: Whether it may have been billed; one that was refused is not, one without an answer may be.
        tokens: Tokens that the server counted; None if it did not say.
    """

    paid: bool = True
    tokens: int | None = None


class Budget:
    """The cost of all requests, safe for threads.

    Args:
        options: Prices and cap. One request counts as one, however many the server makes of it.

    Attributes:
        cost: What was paid, in the prices' currency.
        calls: Requests sent, those that failed included.
        is_estimated: Whether tokens were estimated, from the bytes of the texts, because a server did not count them.
    """

    def __init__(self, options: RemoteOptions) -> None:
        self._options = options
        self.cost, self.calls, self.is_estimated = 0.0, 0, False
        self._reserved, self._in_flight = 0.0, 0
        self._changed = Condition()

    @contextmanager
    def charge(self, n_bytes: int) -> Iterator[Charge]:
        """Counts a request while it is on its way, at most at the price of as many tokens as it has bytes.

        Raises:
            InputError: it could pass the cap.
        """
        worst, charge = self._price(n_bytes), Charge()
        with self._changed:
            # What is on its way may turn out cheaper.
            self._changed.wait_for(lambda: self._fits(worst) or not self._in_flight)
            if not self._fits(worst):
                fault = f"the next request could pass it, {self.cost:.6g} are spent; what was answered is cached"
                raise InputError(f"max_cost {self._options.max_cost:g}: {fault}; raise it to go on", param="max_cost")
            self._reserved += worst
            self._in_flight += 1
            self.calls += 1
        try:
            yield charge
        finally:
            with self._changed:
                self._in_flight -= 1
                self._reserved = self._reserved - worst if self._in_flight else 0.0
                if charge.paid:
                    tokens = n_bytes / BYTES_PER_TOKEN if charge.tokens is None else charge.tokens
                    self.cost += self._price(tokens)
                    priced = self._options.price_per_million_tokens > 0
                    self.is_estimated = self.is_estimated or (priced and charge.tokens is None)
                self._changed.notify_all()

    def _price(self, tokens: float) -> float:
        return self._options.price_per_1000_requests / 1000 + self._options.price_per_million_tokens * tokens / 1e6

    def _fits(self, worst: float) -> bool:
        cap = self._options.max_cost
        return cap is None or self.cost + self._reserved + worst <= cap + 1e-12  # sums of prices are rounded
