"""What can be set about a remote teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from rabtriever.errors import InputError

T = TypeVar("T")


def _option(default: T, text: str, minimum: float | None = None) -> T:
    """Returns a field with a help text; ``minimum`` is the least value that makes sense."""
    made: T = field(default=default, metadata={"help": text, "minimum": minimum})
    return made


@dataclass(frozen=True)
class RemoteOptions:
    """Options of a remote teacher.

    Raises:
        InputError: a value out of its range; its ``param`` is the field's name.
    """

    key_variable: str = _option(
        "RABTRIEVER_TEACHER_KEY", "environment variable that holds the API key, if one is asked"
    )
    allow_http: bool = _option(False, "whether plain http may leave this machine")
    raw_scores: bool = _option(False, "whether a rerank server's scores are log-odds already, not probabilities")
    task: str = _option("You judge whether a document answers a query.", "what chat models are told")
    document_name: str = _option("Document", "what chat models see a document called")
    query_name: str = _option("Query", "what chat models see a query called")
    documents_per_request: int = _option(32, "documents of one query in a request, where a protocol takes several", 1)
    concurrency: int = _option(4, "requests in flight", 1)
    timeout: float = _option(60.0, "seconds until an answer must be there", 1e-3)
    requests_per_minute: float | None = _option(None, "rate limit", 1e-3)
    price_per_1000_requests: float = _option(0.0, "price of 1,000 requests", 0)
    price_per_million_tokens: float = _option(0.0, "price of a million tokens", 0)
    max_cost: float | None = _option(None, "what one run may cost, in the prices' currency", 0)

    def __post_init__(self) -> None:
        """Checks the ranges; a cap without a price would never be reached."""
        for item in fields(self):
            self._check(item.name, getattr(self, item.name), item.metadata["minimum"])
        if self.max_cost is not None and not (self.price_per_1000_requests or self.price_per_million_tokens):
            fault = "nothing has a price; give price_per_1000_requests or price_per_million_tokens"
            raise InputError(f"max_cost {self.max_cost}: {fault}", param="max_cost")

    def _check(self, name: str, value: Any, minimum: float | None) -> None:  # noqa: ANN401
        if minimum is not None and value is not None and not minimum <= value < math.inf:  # never of NaN
            raise InputError(f"{name} {value!r}: must be a number of at least {minimum:g}", param=name)
        if isinstance(value, str) and not value.strip():
            raise InputError(f"{name}: must not be empty", param=name)
