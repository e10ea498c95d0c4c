"""The API's own routes: /v1/search, /v1/documents, /v1/documents/{id} and /v1/feedback."""

from __future__ import annotations

import asyncio
import time
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from rabtriever.data import Document
from rabtriever.index.search import SearchOptions
from rabtriever.serving.errors import APIError, content_type, first_validation_error
from rabtriever.serving.routes import Service, error_responses
from rabtriever.serving.schemas import native as schemas

router = APIRouter()
Id = Annotated[str, Path(min_length=1, max_length=1000, description="The document's id; it may hold slashes.")]
SCHEMA = schemas.DocumentsRequest.model_json_schema()
SCHEMA["properties"]["documents"]["items"] = SCHEMA.pop("$defs")["NewDocument"]
MAX_LINE_BYTES = 2**23
LINES = {"type": "string", "description": "One object a line, as in `documents`."}
CONTENT: dict[str, Any] = {"application/json": {"schema": SCHEMA}, "application/x-ndjson": {"schema": LINES}}


@router.post("/v1/search", tags=["search"], response_model_exclude_none=True, responses=error_responses(415, 422))
async def search(body: schemas.SearchRequest, service: Service) -> schemas.SearchResponse:
    """Finds the best documents of the index for a query, or for each of several."""
    options = SearchOptions(body.k, body.where, body.mode, body.rerank, body.threshold, body.refuse)
    context: list[Any] = [body.history, body.used]
    if body.queries is None:
        context = [None if values is None else [values] for values in context]
    result = await service.search(body.queries or [body.query or ""], options, *context)
    shown = schemas.SearchHit.model_construct
    found = [[shown(**vars(hit)) for hit in hits] for hits in result.hits]
    timings = schemas.Timings(**{stage: round(value, 3) for stage, value in result.milliseconds.items()})
    shape: dict[str, Any] = {"hits": found[0]} if body.queries is None else {"results": found}
    if body.refuse is not None:
        closest = [hits.closest and shown(**vars(hits.closest)) for hits in result.hits]
        shape["closest"] = closest[0] if body.queries is None else closest
    return schemas.SearchResponse(**shape, timings=timings, truncated=result.counts.truncated)


@router.post(
    "/v1/documents",
    tags=["documents"],
    responses=error_responses(403, 409, 415, 422, 507),
    openapi_extra={"requestBody": {"required": True, "content": CONTENT}},
)
async def add(
    request: Request,
    service: Service,
    upsert: Annotated[bool, Query(description="The same as in the body; for uploads.")] = True,
) -> schemas.DocumentsResponse:
    """Adds documents, or replaces those of the same ids, in one transaction.

    All of them can be found when this is answered; on an error, none. An upload of any size has the content type
    `application/x-ndjson` and an object as in `documents` on each line.
    """
    body: BinaryIO = request.scope["rabtriever.body"]
    if request.scope["rabtriever.upload"]:
        await asyncio.to_thread(lambda: sum(1 for _ in _lines(body)))  # a bad line is found before any is encoded
        written = await service.write(lambda: _lines(body), upsert)
    elif content_type(request.headers) == "application/json":
        parsed = await asyncio.to_thread(_parse, body.read())
        written = await service.write(lambda: (one.document() for one in parsed.documents), parsed.upsert and upsert)
    else:
        raise APIError(415, "send application/json, or application/x-ndjson with a document on each line")
    return schemas.DocumentsResponse(written=written, documents=await service.count())


@router.get("/v1/documents/{id:path}", tags=["documents"], responses=error_responses(404, 422))
async def get(id: Id, service: Service) -> Document:
    """Returns a document."""
    return await service.get(id)


@router.delete(
    "/v1/documents/{id:path}", tags=["documents"], status_code=204, responses=error_responses(403, 404, 422, 507)
)
async def delete(id: Id, service: Service) -> None:
    """Removes a document."""
    await service.delete(id)


@router.post("/v1/feedback", tags=["feedback"], responses=error_responses(404, 415, 422, 507))
async def feedback(body: schemas.FeedbackRequest, service: Service) -> schemas.FeedbackResponse:
    """Stores what was chosen of a search's hits, or of several searches'; 404 if the server was started without.

    What is answered is on disk. An id that the index does not have is refused, with all that came with it.
    """
    now, given = time.time(), body.events if isinstance(body, schemas.FeedbackBatch) else [body]
    await service.store_feedback([one.event(now) for one in given])
    return schemas.FeedbackResponse(stored=len(given))


def _parse(raw: bytes) -> schemas.DocumentsRequest:
    try:
        return schemas.DocumentsRequest.model_validate_json(raw.removeprefix(BOM_UTF8))
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False)) from None


def _lines(body: BinaryIO) -> Iterator[Document]:
    """Yields the documents of an upload; raises an APIError, 422, if there is none, a bad one, or an id comes twice."""
    seen: set[str] = set()
    body.seek(0)
    for number, line in enumerate(iter(lambda: body.readline(MAX_LINE_BYTES + 1), b""), 1):
        if number == 1:
            line = line.removeprefix(BOM_UTF8)
        if len(line) > MAX_LINE_BYTES:
            raise APIError(422, f"line {number}: longer than {MAX_LINE_BYTES >> 20} MB", "body")
        if not line.strip():
            continue
        try:
            document = schemas.NewDocument.model_validate_json(line).document()
        except ValidationError as error:
            param, message = first_validation_error(error.errors(include_input=False))
            raise APIError(422, f"line {number}: {param}: {message}", param) from None
        if document.id in seen:
            raise APIError(422, f"line {number}: its id came before", "id")
        seen.add(document.id)
        yield document
    if not seen:
        raise APIError(422, "no document in the upload; send one a line", "body")
