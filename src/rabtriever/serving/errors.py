"""How a request is refused: one exception, and the shapes in which clients expect to be told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "too_large_error",
    415: "invalid_request_error",
    421: "invalid_request_error",
    422: "invalid_request_error",
    429: "overloaded_error",
    503: "unavailable_error",
    504: "timeout_error",
}
TEI_KINDS = {413: "Validation", 422: "Validation", 429: "Overloaded", 503: "Unhealthy"}
TEI = "/rerank"
FIELD = re.compile(r"\w+")


class APIError(Exception):
    """A request that is answered with an error.

    Args:
        status: Of HTTP.
        message: One line for the client.
        param: The field that is wrong.
        retry: Seconds after which it may be tried again.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        retry: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.headers = dict(headers or {}) | ({"Retry-After": str(retry)} if retry else {})

    def response(self, path: str) -> JSONResponse:
        """The answer: OpenAI's shape with Cohere's ``message``, or TEI's where a path is TEI's."""
        body: dict[str, Any]
        if path == TEI:
            body = {"error": self.message, "error_type": TEI_KINDS.get(self.status, "Backend")}
        else:
            error = {"message": self.message, "type": KINDS.get(self.status, "server_error"), "param": self.param}
            body = {"message": self.message, "error": error}
        return JSONResponse(body, self.status, self.headers)


def first_fault(errors: Sequence[Any]) -> tuple[str, str]:
    """The field and the message of pydantic's first error, without the input itself."""
    error = errors[0]
    loc = [part for part in error["loc"] if isinstance(part, int) or FIELD.fullmatch(part)]  # not a union's branches
    place = [str(part) for part in loc if part not in ("body", "path", "str")]
    if error["type"] == "json_invalid":
        return "body", "no JSON that can be read"
    message = "is blank" if str(error["msg"]).endswith(r"'\S'") else str(error["msg"]).removeprefix("Value error, ")
    return ".".join(place) or "body", message
