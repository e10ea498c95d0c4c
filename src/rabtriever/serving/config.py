"""Options of a server."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rabtriever.errors import InputError


def _option(default: float, text: str) -> Any:  # noqa: ANN401
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ServerLimits:
    """Bounds of one request, and of all that are in progress.

    Raises:
        InputError: a value that is not above 0.
    """

    timeout: float = _option(60.0, "seconds that a request may take; uploads may take longer")
    searches: int = _option(128, "searches that wait or are in progress, and feedback; one more is answered 429")
    reranks: int = _option(16, "reranks and embeddings, likewise")
    writes: int = _option(64, "writes, likewise")
    body_mb: int = _option(8, "megabytes of a request; more is answered 413")
    upload_mb: int = _option(1024, "megabytes of an upload of documents, one a line")
    keep_minutes: int = _option(60, "minutes that versions of the index are kept; every change makes one")

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise InputError(f"--{name.replace('_', '-')} {value}: give a number above 0", param=name)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """A server's options, as its worker processes get them.

    Attributes:
        uri: The index.
        model: The retriever, if the index's own has moved.
        load_options: ``device``, ``dtype`` and ``backend`` of its LLM (:class:`rabtriever.llm.loading.LoadOptions`).
        keys: File of API keys.
        insecure: Whether everyone who can reach it may use it.
        loopback: Whether it listens on this machine alone.
        cors: Origins whose pages may call it.
        workers: Number of processes.
        feedback: What is stored of the queries of feedback, one of :data:`rabtriever.choices.FEEDBACK_MODES`.
        limits: Bounds of requests.
    """

    uri: str
    model: str | None = None
    load_options: dict[str, Any] = field(default_factory=dict)
    keys: str | None = None
    insecure: bool = False
    loopback: bool = True
    cors: tuple[str, ...] = ()
    workers: int = 1
    feedback: str = "off"
    limits: ServerLimits = field(default_factory=ServerLimits)

    def to_json(self) -> str:
        """Returns the options as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerConfig:
        """Reads what :meth:`to_json` returned."""
        values = json.loads(text)
        return cls(**{**values, "cors": tuple(values["cors"]), "limits": ServerLimits(**values["limits"])})
