"""One file per part of the API."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from rabtriever.serving.errors import APIError
from rabtriever.serving.schemas import Problem
from rabtriever.serving.service import SearchService

TOLD = {
    401: "No valid API key",
    403: "The key may not do this",
    408: "The request did not arrive",
    409: "The id is there already",
    413: "Too large",
    415: "Another content type is expected",
    421: "Addressed to another host",
    422: "A field is wrong",
    404: "Not there",
    429: "Too many requests wait; see Retry-After",
    500: "A fault of the server",
    503: "Not ready, or busy; see Retry-After",
    504: "Not done in time",
}


def refusals(*statuses: int, model: type[Any] = Problem) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides its result, for its documentation."""
    usual = (401, 408, 413, 421, 429, 500, 503, 504)
    return {status: {"model": model, "description": TOLD[status]} for status in sorted({*usual, *statuses})}


async def get_service(request: Request) -> SearchService:
    """The engine.

    Raises:
        APIError: 503, it is being loaded or closed.
    """
    engine: SearchService | None = request.app.state.engine
    if engine is None:
        raise APIError(503, "the model is being loaded; try again soon", retry=2)
    return engine
