"""POST /v1/documents, GET and DELETE /v1/documents/{id}."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from rabtriever.data import Document
from rabtriever.serving.errors import APIError, first_fault
from rabtriever.serving.routes import get_service, refusals
from rabtriever.serving.schemas import DocumentsRequest, DocumentsResponse, NewDocument, StoredDocument
from rabtriever.serving.service import SearchService

router = APIRouter(tags=["documents"])
Id = Annotated[str, Path(min_length=1, max_length=1000, description="The document's id; it may hold slashes.")]
SCHEMA = DocumentsRequest.model_json_schema()
SCHEMA["properties"]["documents"]["items"] = SCHEMA.pop("$defs")["NewDocument"]
LINE = 2**23  # bytes of a line
LINES = {"type": "string", "description": "One object a line, as in `documents`."}
CONTENT: dict[str, Any] = {"application/json": {"schema": SCHEMA}, "application/x-ndjson": {"schema": LINES}}


@router.post(
    "/v1/documents",
    responses=refusals(403, 409, 415, 422),
    openapi_extra={"requestBody": {"required": True, "content": CONTENT}},
)
async def add(
    request: Request,
    engine: Annotated[SearchService, Depends(get_service)],
    upsert: Annotated[bool, Query(description="The same as in the body; for uploads.")] = True,
) -> DocumentsResponse:
    """Add documents, or replace those of the same ids, in one transaction.

    All of them are there, and found, when this is answered; on an error, none. An upload of any size has the content
    type `application/x-ndjson` and an object as in `documents` on each line.
    """
    body: BinaryIO = request.scope["rabtriever.body"]
    if request.scope["rabtriever.upload"]:
        await asyncio.to_thread(_check, body)
        written = await engine.write(lambda: _lines(body), upsert)
    else:
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise APIError(415, "send application/json, or application/x-ndjson with a document on each line")
        asked = await asyncio.to_thread(_parsed, body.read())
        written = await engine.write(lambda: (one.document() for one in asked.documents), asked.upsert and upsert)
    return DocumentsResponse(written=written, documents=await engine.count())


@router.get("/v1/documents/{id:path}", responses=refusals(404, 422))
async def get(id: Id, engine: Annotated[SearchService, Depends(get_service)]) -> StoredDocument:  # noqa: A002
    """A document."""
    found = await engine.get(id)
    return StoredDocument(id=found.id, title=found.title, text=found.text, metadata=dict(found.metadata))


@router.delete("/v1/documents/{id:path}", status_code=204, responses=refusals(403, 404, 422))
async def delete(id: Id, engine: Annotated[SearchService, Depends(get_service)]) -> None:  # noqa: A002
    """Remove a document."""
    await engine.delete(id)


def _parsed(raw: bytes) -> DocumentsRequest:
    try:
        return DocumentsRequest.model_validate_json(raw)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_context=False, include_input=False)) from None


def _check(body: BinaryIO) -> None:
    """Every line of an upload, before anything is done."""
    seen: set[str] = set()
    for document in _lines(body):
        if document.id in seen:
            raise APIError(422, f"line {len(seen) + 1}: its id came before", "id")
        seen.add(document.id)
    if not seen:
        raise APIError(422, "no document in the upload; send one a line", "body")


def _lines(body: BinaryIO) -> Iterator[Document]:
    body.seek(0)
    for number, line in enumerate(iter(lambda: body.readline(LINE + 1), b""), 1):
        if len(line) > LINE:
            raise APIError(422, f"line {number}: longer than {LINE >> 20} MB", "body")
        if not line.strip():
            continue
        try:
            yield NewDocument.model_validate_json(line).document()
        except ValidationError as error:
            param, message = first_fault(error.errors(include_context=False, include_input=False))
            raise APIError(422, f"line {number}: {param}: {message}", param) from None
