"""Requests that are sent again when a server is busy or gone, in good time and in good order."""

from __future__ import annotations

import json
import os
import random
import time
from email.utils import parsedate_to_datetime
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from rabtriever.errors import InputError, RemoteError, first_line
from rabtriever.rerankers.remote.budget import Budget, Charge
from rabtriever.rerankers.remote.options import RemoteOptions
from rabtriever.rerankers.remote.protocols import used_tokens
from rabtriever.rerankers.remote.source import RemoteSource

if TYPE_CHECKING:
    import httpx2

MAX_ATTEMPTS = 8
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds; each wait is twice the one before, times .5 to 1.5 by chance
LONGEST_RETRY_AFTER = 300.0  # a server that asks for more is done for today
TEMPORARY = (408, 425, 429, 500, 502, 503, 504, 529)
MAX_ANSWER_BYTES = 1 << 24
REMEDIES = {
    401: "set the API key in ${key_variable}",
    403: "check the API key in ${key_variable}",
    404: "check the URL and the model",
    405: "check the URL",
    413: "lower documents_per_request",
    422: "check the protocol, the model and documents_per_request",
}


class _Failure(NamedTuple):
    """Why a request is sent again, and after how many seconds at the earliest."""

    reason: str
    wait: float = 0.0


class Transport:
    """Sends requests to one server, from any thread.

    Args:
        source: The server.
        options: Key, timeout, most connections.
        budget: Where requests are counted and wait for their turn.
    """

    def __init__(self, source: RemoteSource, options: RemoteOptions, budget: Budget) -> None:
        self._source, self._options, self._budget = source, options, budget
        self._client: httpx2.Client | None = None

    def open(self) -> None:
        """Reads the key and makes ready for :meth:`post`; raises InputError for a key that cannot be sent."""
        if self._client is None:
            self._client = self._make_client()

    def post(self, url: str, body: dict[str, Any], n_bytes: int, stop: Event) -> Any:  # noqa: ANN401
        """Returns the decoded JSON answer; :meth:`open` comes before.

        Args:
            url: Where to.
            body: JSON-ready.
            n_bytes: What the request is charged for at most, in bytes of text.
            stop: Set to give up between two attempts.

        Raises:
            Stopped: ``stop`` was set.
            RemoteError: a refusal, no answer after all attempts, or no JSON.
            InputError: the budget is spent.
        """
        for attempt in range(MAX_ATTEMPTS):
            with self._budget.charge(n_bytes, stop) as charge:
                answer = self._attempt(url, body, charge)
            if not isinstance(answer, _Failure):
                return answer
            if attempt == MAX_ATTEMPTS - 1:
                break
            if answer.wait > LONGEST_RETRY_AFTER:
                raise RemoteError(f"{answer.reason}, and asks to wait {answer.wait:.0f} s; run again then")
            self._budget.pause(answer.wait)
            stop.wait(min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.5))
        raise RemoteError(f"{answer.reason}, {MAX_ATTEMPTS} times; answers so far are cached, run again later")

    def _attempt(self, url: str, body: dict[str, Any], charge: Charge) -> Any:  # noqa: ANN401
        """Sends a request once; returns the decoded answer or, if it may be sent again, a failure."""
        import httpx2

        try:
            response, content = self._send(url, body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            charge.paid = False
            return _Failure(f"cannot be reached ({first_line(error)})")
        except httpx2.TimeoutException:
            return _Failure(f"no answer within {self._options.timeout:g} s")
        except httpx2.TransportError as error:
            return _Failure(f"broke the connection ({first_line(error)})")
        if response.status_code != 200:
            charge.paid = False
            said = _message(self._hide_key(content.decode(errors="replace")))
            reason = f"HTTP {response.status_code} {said}".rstrip()
            if response.status_code in TEMPORARY:
                return _Failure(reason, _retry_after(response.headers.get("Retry-After", "").strip()))
            remedy = REMEDIES.get(response.status_code, "the server refuses the request")
            raise RemoteError(f"{reason}; {remedy.replace('{key_variable}', self._options.key_variable)}")
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise RemoteError("the answer is no JSON; check the URL") from None
        charge.tokens = used_tokens(answer)
        return answer

    def _send(self, url: str, body: dict[str, Any]) -> tuple[httpx2.Response, bytes]:
        """Returns a response and its whole body; one that trickles is timed out, too."""
        import httpx2

        assert self._client is not None
        deadline, parts, size = time.monotonic() + self._options.timeout, [], 0
        with self._client.stream("POST", url, content=json.dumps(body).encode()) as response:
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("the answer trickles")
                if size > MAX_ANSWER_BYTES:
                    raise RemoteError(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB; check the URL")
        return response, b"".join(parts)

    def _make_client(self) -> httpx2.Client:
        import httpx2

        key = os.environ.get(self._options.key_variable, "").strip()
        if not key.isascii() or not key.isprintable():
            fault = "holds no API key but other characters; set it to the key alone"
            raise InputError(f"${self._options.key_variable}: {fault}", param="key_variable")
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        limits = httpx2.Limits(max_connections=self._options.concurrency)
        # No proxy stands between this machine and itself.
        return httpx2.Client(
            headers=headers, timeout=self._options.timeout, limits=limits, trust_env=not self._source.is_local
        )

    def _hide_key(self, message: str) -> str:
        assert self._client is not None
        key = self._client.headers.get("Authorization", "").removeprefix("Bearer ")
        return message.replace(key, "***") if key else message


def _retry_after(header: str) -> float:
    """Returns the seconds that a Retry-After header asks for, in either of its forms; 0 for none."""
    try:
        seconds = float(header) if header.isdigit() else parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(seconds, 0.0)


def _message(text: str) -> str:
    """Returns a server's own words about an error as one line of at most 200 characters, in brackets."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = text
    for name in ("error", "message", "detail"):
        if isinstance(answer, dict) and answer.get(name):
            answer = answer[name]
    line = " ".join((answer if isinstance(answer, str) else json.dumps(answer)).split())
    return f"({line[:200]})" if line else ""
