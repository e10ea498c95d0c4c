"""Errors as clients see them: one table from kinds of errors to statuses, types and descriptions."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.responses import JSONResponse

from rabtriever.errors import BusyError, ConflictError, CorruptIndexError, InputError, NotFoundError, StorageError

TEI = "/rerank"  # the path that Text Embeddings Inference's clients call
FIELD = re.compile(r"\w+")


class ErrorKind(NamedTuple):
    """A row of the table.

    Attributes:
        status: HTTP status.
        error_type: ``error.type`` of OpenAI's shape.
        description: In the documentation, and the whole message of a fault that is not the client's.
        raised: The library's error that this answers, and those of its subclasses that have no row of their own.
        retry_after: Seconds after which that request may succeed.
        tei_type: ``error_type`` of Text Embeddings Inference's shape.
    """

    status: int
    error_type: str
    description: str
    raised: type[InputError] | None = None
    retry_after: int | None = None
    tei_type: str = "Backend"


ERRORS = {
    kind.status: kind
    for kind in (
        ErrorKind(401, "authentication_error", "No valid API key"),
        ErrorKind(403, "permission_error", "The API key may not do this"),
        ErrorKind(404, "not_found_error", "Does not exist", NotFoundError),
        ErrorKind(405, "invalid_request_error", "The path has other methods"),
        ErrorKind(408, "timeout_error", "The request did not arrive in time"),
        ErrorKind(409, "conflict_error", "The id exists already", ConflictError),
        ErrorKind(413, "too_large_error", "The body is too large", tei_type="Validation"),
        ErrorKind(415, "invalid_request_error", "Another content type is expected"),
        ErrorKind(421, "invalid_request_error", "Addressed to another host"),
        ErrorKind(422, "invalid_request_error", "A field is wrong", InputError, tei_type="Validation"),
        ErrorKind(429, "overloaded_error", "Too many requests wait; see Retry-After", tei_type="Overloaded"),
        ErrorKind(500, "server_error", "The server failed; its log says where", CorruptIndexError),
        ErrorKind(
            503,
            "unavailable_error",
            "Not ready, or another write is in progress; see Retry-After",
            BusyError,
            1,
            "Unhealthy",
        ),
        ErrorKind(504, "timeout_error", "Not done in time"),
        ErrorKind(507, "storage_error", "The index cannot be written; nothing was changed", StorageError),
    )
}
BY_EXCEPTION = {kind.raised: kind for kind in ERRORS.values() if kind.raised}


class APIError(Exception):
    """An error that is answered with a status.

    Args:
        status: HTTP status.
        message: One line for the client; the status's description if None.
        param: The field that is wrong.
        retry_after: Seconds after which the request may succeed.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str | None = None,
        param: str | None = None,
        *,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.kind = ERRORS.get(status) or ErrorKind(status, "server_error", "The request failed")
        self.status, self.message, self.param = status, message or self.kind.description, param
        super().__init__(self.message)
        self.headers = dict(headers or {}) | ({"Retry-After": str(retry_after)} if retry_after else {})

    @classmethod
    def of(cls, error: InputError) -> APIError:
        """Returns what a library's error is to a client; one that is not the client's fault names no file."""
        kind = next(BY_EXCEPTION[base] for base in type(error).__mro__ if base in BY_EXCEPTION)
        message = str(error) if kind.status < 500 else None
        return cls(kind.status, message, error.param, retry_after=kind.retry_after)

    def response(self, path: str) -> JSONResponse:
        """Returns the answer: OpenAI's shape with Cohere's ``message``, or on TEI's path TEI's."""
        body: dict[str, Any]
        if path == TEI:
            body = {"error": self.message, "error_type": self.kind.tei_type}
        else:
            error = {"message": self.message, "type": self.kind.error_type, "param": self.param}
            body = {"message": self.message, "error": error}
        return JSONResponse(body, self.status, self.headers)


def first_validation_error(errors: Sequence[Any]) -> tuple[str, str]:
    """Returns the field and the message of pydantic's first error, without the input itself."""
    error = errors[0]
    if error["type"] == "json_invalid":
        return "body", "no JSON that can be read"
    loc = [part for part in error["loc"] if isinstance(part, int) or FIELD.fullmatch(part)]  # not a union's branches
    field = ".".join(str(part) for part in loc if part not in ("body", "path", "str"))
    return field or "body", str(error["msg"])


def location(error: BaseException) -> str:
    """Returns an error's type and lines, and its causes', without messages, which may hold a request's text."""
    frames = " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)))
    cause = f" from {location(error.__cause__)}" if error.__cause__ else ""
    return f"{type(error).__name__} at {frames}{cause}"
