"""Errors as clients see them: one table from kinds of errors to statuses, types and descriptions."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import Scope

from rabtriever.errors import BusyError, ConflictError, CorruptIndexError, InputError, NotFoundError, StorageError

TEI = "/rerank"  # the path that Text Embeddings Inference's clients call
FIELD = re.compile(r"\w+")
logger = logging.getLogger("rabtriever.serving")


class ErrorKind(NamedTuple):
    """A row of the table.

    Attributes:
        status: HTTP status.
        error_type: ``error.type`` of OpenAI's shape.
        description: In the documentation, and the whole message of a fault that is not the client's.
        raised: The library's error that this answers, and those of its subclasses that have no row of their own.
        tei_type: ``error_type`` of Text Embeddings Inference's shape.
    """

    status: int
    error_type: str
    description: str
    raised: type[InputError] | None = None
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
        ErrorKind(422, "invalid_request_error", "A field is wrong", InputError, "Validation"),
        ErrorKind(429, "overloaded_error", "Too many requests wait; see Retry-After", tei_type="Overloaded"),
        ErrorKind(500, "server_error", "The server failed; its log says where", CorruptIndexError),
        ErrorKind(
            503, "unavailable_error", "Not ready, or another write goes on; see Retry-After", BusyError, "Unhealthy"
        ),
        ErrorKind(504, "timeout_error", "Not done in time"),
        ErrorKind(507, "storage_error", "The index cannot be written; nothing was changed", StorageError),
    )
}
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 413: {"Connection": "close"}}
BY_EXCEPTION = {kind.raised: kind for kind in ERRORS.values() if kind.raised}


class APIError(Exception):
    """An error that is answered with a status.

    Args:
        status: HTTP status.
        message: One line for the client; the status's description if empty.
        param: The field that is wrong.
        retry_after: Seconds after which the request may succeed.
    """

    def __init__(self, status: int, message: str = "", param: str | None = None, retry_after: int = 0) -> None:
        self.kind = ERRORS.get(status) or ErrorKind(status, "server_error", "The request failed")
        self.status, self.message, self.param = status, message or self.kind.description, param
        super().__init__(self.message)
        self.headers = dict(HEADERS.get(status, {})) | ({"Retry-After": str(retry_after)} if retry_after else {})

    @classmethod
    def of(cls, error: Exception) -> APIError:
        """Returns what an error is to a client; the message of one that is not the client's fault stays here."""
        if isinstance(error, cls):
            return error
        kind = next((BY_EXCEPTION[base] for base in type(error).__mro__ if base in BY_EXCEPTION), ERRORS[500])
        message = str(error) if kind.status < 500 else ""
        return cls(kind.status, message, getattr(error, "param", None), retry_after=int(kind.raised is BusyError))

    def response(self, path: str) -> JSONResponse:
        """Returns the answer: OpenAI's shape with Cohere's ``message``, or on TEI's path TEI's."""
        error = {"message": self.message, "type": self.kind.error_type, "param": self.param}
        body: dict[str, Any] = {"message": self.message, "error": error}
        if path == TEI:
            body = {"error": self.message, "error_type": self.kind.tei_type}
        return JSONResponse(body, self.status, self.headers)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Answers any error that a route raises; an unexpected one is logged by the middleware, which gets it too."""
    if isinstance(error, RequestValidationError):
        answer = _invalid_request(request, error)
    elif isinstance(error, HTTPException):
        answer = _http_error(request, error)
    else:
        answer = APIError.of(error)
        if isinstance(error, CorruptIndexError | StorageError):
            log_fault(request.scope, error)
    return answer.response(request.scope["path"])


def _invalid_request(request: Request, error: RequestValidationError) -> APIError:
    if request.method == "POST" and not request.scope["rabtriever.upload"]:
        if content_type(request.headers) != "application/json":
            return APIError(415, "send application/json")
    param, message = first_validation_error(error.errors())
    return APIError(422, f"{param}: {message}", param)


def _http_error(request: Request, error: HTTPException) -> APIError:
    if error.status_code == 400:  # FastAPI's for a body that Python's parser gives up on
        return APIError(422, "body: no JSON that can be read", "body")
    answer = APIError(error.status_code, str(error.detail))
    answer.headers |= dict(error.headers or {})
    methods = request.app.openapi()["paths"].get(getattr(request.scope.get("route"), "path_format", None))
    if error.status_code == 405 and methods:  # Starlette names only those of the path's first route
        answer.headers["Allow"] = ", ".join(methods).upper()
    return answer


def content_type(headers: Headers) -> str:
    """Returns a request's content type without its parameters."""
    return headers.get("content-type", "").split(";")[0].strip().lower()


def first_validation_error(errors: Sequence[Any]) -> tuple[str, str]:
    """Returns the field and the message of pydantic's first error, without the input itself."""
    error = errors[0]
    if error["type"] == "json_invalid":
        return "body", "no JSON that can be read"
    loc = [part for part in error["loc"] if isinstance(part, int) or FIELD.fullmatch(part)]  # not a union's branches
    field = ".".join(str(part) for part in loc if part not in ("body", "path", "str"))
    return field or "body", str(error["msg"])


def log_fault(scope: Scope, error: Exception) -> None:
    """Logs where an error was raised, without its message, which may hold a request's text."""
    logger.error("%s %s: %s", scope["method"], route_of(scope), _location(error))


def route_of(scope: Scope) -> str:
    """Returns the route's pattern, since a path may hold an id."""
    return getattr(scope.get("route"), "path", None) or scope.get("root_path") or "other"


def _location(error: BaseException) -> str:
    """Returns an error's type and lines, and its causes'."""
    frames = " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)))
    cause = f" from {_location(error.__cause__)}" if error.__cause__ else ""
    return f"{type(error).__name__} at {frames}{cause}"
