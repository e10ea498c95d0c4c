"""The name of a remote teacher: ``<protocol>+<url>#<model>``."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from rabtriever.errors import InputError, shorten
from rabtriever.rerankers.remote.protocols import PROTOCOLS

SHAPE = re.compile(r"([\w-]+)\+(\w+://.*)", re.DOTALL)
EXAMPLE = "tei+http://127.0.0.1:8080/rerank"


def is_remote(name: object) -> bool:
    """Returns whether a name is written like that of a remote teacher, right or wrong; no path or hub id is."""
    return SHAPE.fullmatch(str(name)) is not None


class RemoteSource(NamedTuple):
    """Where a remote teacher is.

    Attributes:
        protocol: One of :data:`rabtriever.rerankers.remote.protocols.PROTOCOLS`.
        url: The endpoint in full.
        model: What the server calls the model; empty if the server has one only.
    """

    protocol: str
    url: str
    model: str

    def __str__(self) -> str:
        """Returns it as written, without the URL's query."""
        return f"{self.protocol}+{self.url.partition('?')[0]}{self.model and '#'}{self.model}"

    @classmethod
    def parse(cls, name: str, *, allow_http: bool = False) -> RemoteSource:
        """Reads ``<protocol>+<url>#<model>``, such as ``vllm-score+http://127.0.0.1:8000/score#BAAI/bge-reranker-base``.

        Args:
            name: The protocol, the endpoint in full, and the model, which ``tei`` does without.
            allow_http: Whether ``http`` may leave this machine, where everyone on the way can read it.

        Raises:
            InputError: an unknown protocol, no endpoint, no model, a key in the URL, or http to another machine.
        """
        match = SHAPE.fullmatch(name)
        if not match:
            raise InputError(
                f"{shorten(name)}: not a remote teacher; write <protocol>+<url>#<model>, such as {EXAMPLE}"
            )
        protocol, rest = match.groups()
        if protocol not in PROTOCOLS:
            raise InputError(f"{protocol}: no protocol of remote teachers; choose one of {', '.join(PROTOCOLS)}")
        url, _, model = rest.partition("#")
        if re.match(r"\w+://[^/?]*@", url):  # the message must not show it
            raise InputError(f"{protocol}: no password or key in a URL; the key is read from the environment")
        parts = _address(url)
        if parts is None:
            raise InputError(f"{shorten(url)}: not an address; write {protocol}+https://HOST{PROTOCOLS[protocol].path}")
        source = cls(protocol, url, model)
        if parts.path in ("", "/"):
            raise InputError(f"{source}: give the endpoint in full, such as {PROTOCOLS[protocol].path}")
        if PROTOCOLS[protocol].needs_model and not model:
            raise InputError(f"{source}: name the model, {source}#MODEL")
        if parts.scheme == "http" and not allow_http and not source.is_local:
            raise InputError(f"{source}: http shows texts and key to everyone on the way; use https")
        return source

    @property
    def is_local(self) -> bool:
        """Whether the server is this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:  # a name
            return False


def _address(url: str) -> SplitResult | None:
    """Returns the parts of an http or https address; None if it is none."""
    try:
        parts = urlsplit(url)
        host = parts.hostname and parts.port != 0  # reading the port checks it
    except ValueError:
        return None
    return parts if host and parts.scheme in ("http", "https") and not re.search(r"[^!-~]", url) else None
