"""The routes, and what all of them need."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from rabtriever.serving.errors import ERRORS, APIError
from rabtriever.serving.schemas.native import ErrorResponse
from rabtriever.serving.service import SearchService

ANY_ROUTE = (401, 408, 413, 421, 429, 500, 503, 504)


def error_responses(*statuses: int, model: type[Any] = ErrorResponse) -> dict[int | str, dict[str, Any]]:
    """Returns a route's errors for its documentation: these statuses, and those of every route."""
    described = sorted({*ANY_ROUTE, *statuses})
    return {status: {"model": model, "description": ERRORS[status].description} for status in described}


async def get_service(request: Request) -> SearchService:
    """Returns the service.

    Raises:
        APIError: 503, it is being loaded or closed.
    """
    service: SearchService | None = request.app.state.service
    if service is None:
        raise APIError(503, "the model is being loaded; try again soon", retry_after=2)
    return service


Service = Annotated[SearchService, Depends(get_service)]
