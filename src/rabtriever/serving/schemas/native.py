"""Fields, requests and responses of the API's own shapes; requests refuse unknown fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rabtriever.data import Document, FeedbackEvent
from rabtriever.data.metadata import why_not_storable

MAX_QUERIES, MAX_HITS, MAX_TEXTS = 64, 1000, 1000  # of a request
MAX_TEXT_LENGTH = 100_000  # characters: many times what the models read
MAX_FIELDS = 32  # of an object
SAFE_INTEGERS = range(-(2**53), 2**53 + 1)  # that all readers of JSON agree on


def invalid(message: str) -> PydanticCustomError:
    """Returns an error for a validator to raise; the client gets the message as it is."""
    return PydanticCustomError("invalid", message)  # type: ignore[arg-type]


def one_of(kind: str, fields: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Returns the JSON schema of an object that needs one of these fields (``oneOf``), or at least one (``anyOf``)."""
    return {kind: [{"required": [name], "properties": {name: schema}} for name, schema in fields.items()]}


def _not_blank(value: str) -> str:
    if not value or value.isspace():
        raise invalid("is blank")
    return value


def _in_a_path(value: str) -> str:
    if value in (".", ".."):
        raise invalid("'.' and '..' mean folders in a URL, where the document could not be reached; take another")
    return value


def _integer(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # in JSON 1.0 and 1 are the same


NON_BLANK = Field(json_schema_extra={"pattern": r"\S"})
LimitedText = Annotated[str, StringConstraints(max_length=MAX_TEXT_LENGTH)]
NonBlankText = Annotated[LimitedText, AfterValidator(_not_blank), NON_BLANK]
Identifier = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_not_blank), NON_BLANK]
NonNegativeInt = Annotated[int, Field(ge=0), BeforeValidator(_integer)]
Texts = Annotated[list[NonBlankText], Field(min_length=1, max_length=MAX_TEXTS)]
Turns = Annotated[list[NonBlankText], Field(max_length=MAX_TEXTS)]
Identifiers = Annotated[list[Identifier], Field(max_length=MAX_TEXTS)]
HitCount = Annotated[int, Field(ge=1, le=MAX_HITS), BeforeValidator(_integer)]


class NativeRequest(BaseModel):
    """A request in the API's own shape."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_small(cls, value: Any) -> Any:  # noqa: ANN401 - each unknown field would be an error of its own
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise invalid(f"more than {MAX_FIELDS} fields")
        return value


class SearchRequest(NativeRequest):
    """Queries and how to search."""

    model_config = ConfigDict(
        json_schema_extra=one_of("oneOf", {"query": {"type": "string"}, "queries": {"type": "array"}})
    )
    query: NonBlankText | None = Field(None, description="One query: answered by `hits`.")
    queries: list[NonBlankText] | None = Field(
        None, min_length=1, max_length=MAX_QUERIES, description="Or several: answered by `results`."
    )
    k: HitCount = Field(10, description="Hits a query, at most.")
    where: str | None = Field(None, description="SQL condition over id, title, text and metadata.")
    mode: Literal["auto", "exact", "ann", "bm25", "encoder"] = Field(
        "auto", description="exact, ann (approximate), auto, bm25: its ranking, or encoder: that of the encoder alone."
    )
    rerank: HitCount | None = Field(None, description="How many of the best hits the reranker scores.")
    threshold: float | None = Field(None, ge=0, le=1, description="Least probability of a hit.")
    refuse: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Return no hit where nothing fits, but to this share of the requests that have an answer, at most.",
    )
    history: Turns | list[Turns] | None = Field(
        None, description="Earlier turns of the conversation, oldest first; with `queries`, a list for each."
    )
    used: Identifiers | list[Identifiers] | None = Field(
        None, description="Ids of documents that were chosen already, oldest first; with `queries`, a list for each."
    )

    @model_validator(mode="after")
    def _has_queries(self) -> SearchRequest:
        if (self.query is None) == (self.queries is None):
            raise invalid("give either query or queries")
        for values in (self.history, self.used):
            if any(isinstance(value, str) == (self.query is None) for value in values or []):
                raise invalid("history and used: give a list with query, a list of lists with queries")
        return self


class SearchHit(BaseModel):
    """A document that was found."""

    id: str
    probability: float = Field(description="Calibrated probability that it is relevant to the query.")
    log_odds: float = Field(description="The ranking key.")
    text: str = Field(description="As the models read it: title: text.")
    metadata: dict[str, Any]
    reranked: bool = Field(description="Whether the reranker scored it.")


class Timings(BaseModel):
    """Milliseconds of each stage."""

    queue: float = Field(description="Waiting for the batches that encode and scan.")
    encode: float
    scan: float = Field(description="Including the texts of the hits.")
    rerank: float | None = None


class SearchResponse(BaseModel):
    """Hits of a query, or of each of several."""

    hits: list[SearchHit] | None = None
    results: list[list[SearchHit]] | None = None
    closest: SearchHit | list[SearchHit | None] | None = Field(
        None,
        description="With `refuse`, where nothing fits: what came closest. Of several queries a list, null for fits.",
    )
    timings: Timings
    truncated: int = Field(description="Number of queries that were truncated to their token budget.")


class NewDocument(NativeRequest):
    """A document to add."""

    model_config = ConfigDict(
        json_schema_extra=one_of("anyOf", {name: {"type": "string", "pattern": r"\S"} for name in ("text", "title")})
    )
    # As BEIR's corpus.jsonl calls it, where null is none given, too.
    id: Annotated[Identifier, AfterValidator(_in_a_path)] = Field(validation_alias=AliasChoices("id", "_id"))
    text: LimitedText | None = None
    title: LimitedText | None = None
    metadata: dict[str, Any] | None = None

    @field_validator("metadata")
    @classmethod
    def _is_storable(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value and (why := why_not_storable(value, SAFE_INTEGERS)):
            raise invalid(why)
        return value

    @model_validator(mode="after")
    def _has_text(self) -> NewDocument:
        if not ((self.text or "").strip() or (self.title or "").strip()):
            raise invalid("title and text are both blank")
        return self

    def document(self) -> Document:
        """Returns the document for the index."""
        return Document(self.id, self.text or "", self.title or "", self.metadata or {})


class DocumentsRequest(NativeRequest):
    """Documents to add in one transaction."""

    documents: Annotated[list[NewDocument], Field(min_length=1, max_length=MAX_TEXTS), FailFast()]
    upsert: bool = Field(True, description="Replace documents whose ids exist already; else they are an error, 409.")

    @field_validator("documents")
    @classmethod
    def _are_different(cls, value: list[NewDocument]) -> list[NewDocument]:
        if len({document.id for document in value}) < len(value):
            raise invalid("an id comes twice")
        return value


class DocumentsResponse(BaseModel):
    """Numbers of documents."""

    written: int
    documents: int = Field(description="How many the index holds now.")


class Feedback(NativeRequest):
    """What one search led to."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["id"], "properties": {"id": {"type": "string"}}},
                {"required": ["shown"], "properties": {"shown": {"type": "array", "minItems": 1}}},
            ]
        }
    )
    query: NonBlankText
    id: Identifier | None = Field(None, description="The document that was chosen; null: none of those shown.")
    shown: list[Identifier] = Field([], max_length=MAX_HITS, description="Ids of what was shown, best first.")
    succeeded: bool = Field(True, description="Whether using the chosen document worked.")

    @model_validator(mode="after")
    def _says_something(self) -> Feedback:
        if self.id is None and not self.shown:
            raise invalid("give the id that was chosen, or the ids that were shown")
        return self

    def event(self, time: float) -> FeedbackEvent:
        """Returns the event for the store; ``time`` is in seconds since 1970."""
        return FeedbackEvent(self.query, self.id, tuple(self.shown), self.succeeded, time)


class FeedbackBatch(NativeRequest):
    """Feedback of several searches, stored in one transaction."""

    events: Annotated[list[Feedback], Field(min_length=1, max_length=MAX_TEXTS), FailFast()]


def _feedback_kind(value: Any) -> str:  # noqa: ANN401
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "of-several" if "events" in given else "of-one"  # hyphens keep the kind out of an error's field


FeedbackRequest = Annotated[
    Annotated[Feedback, Tag("of-one")] | Annotated[FeedbackBatch, Tag("of-several")], Discriminator(_feedback_kind)
]


class FeedbackResponse(BaseModel):
    """Number of events."""

    stored: int = Field(description="How many are on disk now: all that the request brought.")


class ErrorDetail(BaseModel):
    """An error's cause."""

    message: str
    type: str
    param: str | None = Field(description="The field that is wrong.")


class ErrorResponse(BaseModel):
    """An error, in OpenAI's shape with Cohere's ``message``."""

    message: str
    error: ErrorDetail
