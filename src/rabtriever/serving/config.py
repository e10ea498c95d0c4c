"""What a server is told when it starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rabtriever.errors import InputError


def _told(default: float, text: str) -> Any:  # noqa: ANN401
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ServerLimits:
    """How much one request, and all of them together, may ask for."""

    timeout: float = _told(60.0, "seconds that a request may take; uploads may take longer")
    searches: int = _told(128, "searches that wait or are worked at; one more is answered 429")
    reranks: int = _told(16, "reranks and embeddings, likewise")
    writes: int = _told(64, "changes, likewise")
    body_mb: int = _told(8, "megabytes of a request; more is answered 413")
    upload_mb: int = _told(1024, "megabytes of an upload of documents, one a line")
    keep_minutes: int = _told(60, "minutes that versions of the index are kept; every change makes one")

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: one that is not above 0.
        """
        for name, value in asdict(self).items():
            if not value > 0:
                raise InputError(f"--{name.replace('_', '-')} {value}: give a number above 0")


@dataclass(frozen=True)
class ServerConfig:
    """A server.

    Attributes:
        uri: Of the index.
        model: Folder of the retriever, if the index's own has moved.
        keys: File of API keys.
        insecure: Whether everyone who can reach it may use it.
        loopback: Whether it listens on this machine alone.
        cors: Origins whose pages may call it.
        workers: Processes.
        limits: How much may be asked for.
    """

    uri: str
    model: str | None = None
    keys: str | None = None
    insecure: bool = False
    loopback: bool = True
    cors: tuple[str, ...] = ()
    workers: int = 1
    limits: ServerLimits = field(default_factory=ServerLimits)

    def to_json(self) -> str:
        """For a worker process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerConfig:
        """What :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "cors": tuple(values["cors"]), "limits": ServerLimits(**values["limits"])})
