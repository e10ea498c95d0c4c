"""POST /v1/documents, GET and DELETE /v1/documents/{id}."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from rabtriever.data import Document
from rabtriever.serving.errors import APIError, content_type, first_validation_error
from rabtriever.serving.routes import Service, error_responses
from rabtriever.serving.schemas.native import DocumentsRequest, DocumentsResponse, NewDocument

router = APIRouter(tags=["documents"])
Id = Annotated[str, Path(min_length=1, max_length=1000, description="The document's id; it may hold slashes.")]
SCHEMA = DocumentsRequest.model_json_schema()
SCHEMA["properties"]["documents"]["items"] = SCHEMA.pop("$defs")["NewDocument"]
MAX_LINE_BYTES = 2**23
LINES = {"type": "string", "description": "One object a line, as in `documents`."}
CONTENT: dict[str, Any] = {"application/json": {"schema": SCHEMA}, "application/x-ndjson": {"schema": LINES}}


@router.post(
    "/v1/documents",
    responses=error_responses(403, 409, 415, 422, 507),
    openapi_extra={"requestBody": {"required": True, "content": CONTENT}},
)
async def add(
    request: Request,
    service: Service,
    upsert: Annotated[bool, Query(description="The same as in the body; for uploads.")] = True,
) -> DocumentsResponse:
    """Adds documents, or replaces those of the same ids, in one transaction.

    All of them can be found when this is answered; on an error, none. An upload of any size has the content type
    `application/x-ndjson` and an object as in `documents` on each line.
    """
    body: BinaryIO = request.scope["rabtriever.body"]
    if request.scope["rabtriever.upload"]:
        await asyncio.to_thread(_check_lines, body)
        written = await service.write(lambda: (document for _, document in _lines(body)), upsert)
    elif content_type(request.headers) == "application/json":
        parsed = await asyncio.to_thread(_parse, body.read())
        written = await service.write(lambda: (one.document() for one in parsed.documents), parsed.upsert and upsert)
    else:
        raise APIError(415, "send application/json, or application/x-ndjson with a document on each line")
    return DocumentsResponse(written=written, documents=await service.count())


@router.get("/v1/documents/{id:path}", responses=error_responses(404, 422))
async def get(id: Id, service: Service) -> Document:
    """Returns a document."""
    return await service.get(id)


@router.delete("/v1/documents/{id:path}", status_code=204, responses=error_responses(403, 404, 422, 507))
async def delete(id: Id, service: Service) -> None:
    """Removes a document."""
    await service.delete(id)


def _parse(raw: bytes) -> DocumentsRequest:
    try:
        return DocumentsRequest.model_validate_json(raw)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False)) from None


def _check_lines(body: BinaryIO) -> None:
    """Raises an APIError, 422, if a line of an upload is no document, an id comes twice, or there is no line."""
    seen: set[str] = set()
    for number, document in _lines(body):
        if document.id in seen:
            raise APIError(422, f"line {number}: its id came before", "id")
        seen.add(document.id)
    if not seen:
        raise APIError(422, "no document in the upload; send one a line", "body")


def _lines(body: BinaryIO) -> Iterator[tuple[int, Document]]:
    """Yields the documents of an upload and the numbers of their lines."""
    body.seek(0)
    for number, line in enumerate(iter(lambda: body.readline(MAX_LINE_BYTES + 1), b""), 1):
        if len(line) > MAX_LINE_BYTES:
            raise APIError(422, f"line {number}: longer than {MAX_LINE_BYTES >> 20} MB", "body")
        if not line.strip():
            continue
        try:
            yield number, NewDocument.model_validate_json(line).document()
        except ValidationError as error:
            param, message = first_validation_error(error.errors(include_input=False))
            raise APIError(422, f"line {number}: {param}: {message}", param) from None
