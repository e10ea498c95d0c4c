"""Requests and answers. NativeRequest refuse fields they do not know; those of other services' clients let them pass."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from rabtriever.data import Document

QUERIES, HITS, TEXTS = 64, 1000, 1000  # at most, of a request
LONGEST = 100_000  # characters of a text: many times what the models read
FIELDS = 32  # of an object
Text = Annotated[str, StringConstraints(pattern=r"\S", max_length=LONGEST)]
Whole = Annotated[str, StringConstraints(max_length=LONGEST)]
Count = Annotated[int, Field(ge=0), BeforeValidator(lambda value: _whole(value))]
Hits = Annotated[int, Field(ge=1, le=HITS), BeforeValidator(lambda value: _whole(value))]
Identifier = Annotated[str, StringConstraints(pattern=r"\S", max_length=1000)]
Scorer = Literal["retriever", "reranker"]
Mode = Literal["auto", "exact", "ann", "bm25"]
MANY = 2**53  # the largest whole number that JSON's readers agree on


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value  # JSON takes 1.0 and 1 for the same


class NativeRequest(BaseModel):
    """A request in a shape of our own."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_small(cls, value: Any) -> Any:  # noqa: ANN401 - each unknown field would be an error of its own
        if isinstance(value, dict) and len(value) > FIELDS:
            raise ValueError(f"more than {FIELDS} fields")
        return value


class CompatRequest(BaseModel):
    """A request in another service's shape."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def _have(kind: str, fields: dict[str, dict[str, str]]) -> dict[str, Any]:
    """In the documentation: one of these fields, or at least one, is there."""
    return {kind: [{"required": [name], "properties": {name: schema}} for name, schema in fields.items()]}


class SearchRequest(NativeRequest):
    """Queries and how to search."""

    model_config = ConfigDict(
        json_schema_extra=_have("oneOf", {"query": {"type": "string"}, "queries": {"type": "array"}})
    )
    query: Text | None = Field(None, description="One query: answered by `hits`.")
    queries: list[Text] | None = Field(None, min_length=1, max_length=QUERIES, description="Or several: `results`.")
    k: Hits = Field(10, description="Hits a query.")
    where: Text | None = Field(None, description="SQL condition over id, title, text and metadata.")
    mode: Mode = Field("auto", description="exact, ann (approximate), auto, or bm25: its ranking alone.")
    hybrid: Literal["union", "rrf"] | None = Field(None, description="Join BM25's documents or ranking.")
    rerank: Hits | None = Field(None, description="How many of the best the reranker judges.")
    threshold: float | None = Field(None, ge=0, le=1, description="Least probability of a hit.")

    @model_validator(mode="after")
    def _one_of_both(self) -> SearchRequest:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query or queries")
        return self


class SearchHit(BaseModel):
    """A document found."""

    id: str
    probability: float = Field(description="That it is right for the query: calibrated.")
    log_odds: float = Field(description="The ranking key.")
    text: str = Field(description="As the models read it: title: text.")
    metadata: dict[str, Any]
    reranked: bool = Field(description="Whether probability and log-odds are the reranker's.")


class Timings(BaseModel):
    """Milliseconds of each stage."""

    queue: float = Field(description="Until the batch with the query began.")
    encode: float
    scan: float = Field(description="And fetching what was found.")
    rerank: float | None = None


class SearchResponse(BaseModel):
    """Hits of a query, or of each of several."""

    hits: list[SearchHit] | None = None
    results: list[list[SearchHit]] | None = None
    timings: Timings
    truncated: int = Field(description="Queries that were cut to their token budget.")


class RerankRequest(CompatRequest):
    """Cohere's and Jina's shape."""

    model_config = ConfigDict(
        json_schema_extra=_have("anyOf", {"documents": {"type": "array"}, "texts": {"type": "array"}})
    )
    model: Scorer = Field("retriever", description="Who judges; the reranker reads every pair with the LLM.")
    query: Text
    documents: list[Text | dict[str, Any]] | None = Field(None, min_length=1, max_length=TEXTS)
    texts: list[Text] | None = Field(None, min_length=1, max_length=TEXTS, description="The same as documents.")
    top_n: Count | None = Field(None, description="How many to return; all if missing or 0.")
    return_documents: bool | None = False
    rank_fields: list[Whole] | None = Field(
        None, max_length=FIELDS, description="Fields of document objects to read, rather than text."
    )
    max_tokens_per_doc: Count | None = Field(None, description="Cut documents further than the model does; 0: not.")

    @model_validator(mode="after")
    def _has_documents(self) -> RerankRequest:
        if self.documents is None and self.texts is None:
            raise ValueError("give documents, or texts")
        return self

    def contents(self) -> list[str]:
        """What is to be judged."""
        return [one if isinstance(one, str) else self._content(one) for one in self.documents or self.texts or []]

    def _content(self, document: dict[str, Any]) -> str:
        chosen = [f"{field}: {document[field]}" for field in self.rank_fields or [] if document.get(field)]
        if chosen:
            return "\n".join(chosen)
        text = document.get("text")
        return text if isinstance(text, str) and text.strip() else json.dumps(document, ensure_ascii=False)


class RerankedText(BaseModel):
    """A document's text."""

    text: str


class RerankResult(BaseModel):
    """A document's place."""

    index: int = Field(description="Its place in the request.")
    relevance_score: float = Field(description="Probability that it is right for the query.")
    log_odds: float
    document: RerankedText | None = None


class Usage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(BaseModel):
    """Documents, the most probable first; ties in the request's order."""

    id: str
    model: str
    results: list[RerankResult]
    usage: Usage
    meta: dict[str, Any]


class TeiRequest(CompatRequest):
    """Text Embeddings Inference's shape."""

    query: Text
    texts: list[Text] = Field(min_length=1, max_length=TEXTS)
    raw_scores: bool = Field(False, description="Log-odds instead of probabilities.")
    return_text: bool = False
    truncate: bool | None = Field(False, description="TokenCounts are cut to the model's budget in any case.")
    truncation_direction: str = Field(
        "right", pattern="^[Rr][Ii][Gg][Hh][Tt]$", description="Documents keep their head."
    )
    model: Scorer = "retriever"


class TeiResult(BaseModel):
    """A text's place."""

    index: int
    score: float
    text: str | None = None


class NewDocument(NativeRequest):
    """A document to add."""

    model_config = ConfigDict(
        json_schema_extra=_have("anyOf", {"text": {"pattern": r"\S"}, "title": {"pattern": r"\S"}})
    )
    id: Identifier = Field(validation_alias=AliasChoices("id", "_id"))  # as BEIR's corpus.jsonl calls it
    text: Whole = ""
    title: Whole = ""
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("metadata")
    @classmethod
    def _is_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        _check_json(value)
        return value

    @model_validator(mode="after")
    def _has_text(self) -> NewDocument:
        if not (self.text.strip() or self.title.strip()):
            raise ValueError("title and text are both blank")
        return self

    def document(self) -> Document:
        """The same for the index."""
        return Document(self.id, self.text, self.title, self.metadata)


class DocumentsRequest(NativeRequest):
    """Documents to add in one transaction."""

    documents: Annotated[list[NewDocument], Field(min_length=1, max_length=TEXTS), FailFast()]
    upsert: bool = Field(True, description="Replace documents whose ids are there; else they are an error, 409.")

    @field_validator("documents")
    @classmethod
    def _are_different(cls, value: list[NewDocument]) -> list[NewDocument]:
        if len({document.id for document in value}) < len(value):
            raise ValueError("an id comes twice")
        return value


class DocumentsResponse(BaseModel):
    """What was written."""

    written: int
    documents: int = Field(description="How many there are now.")


class StoredDocument(BaseModel):
    """A document of the index."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]


class EmbeddingsRequest(CompatRequest):
    """OpenAI's shape."""

    model: Literal["rabtriever-query", "rabtriever-document"]
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = Field(None, description="Vectors have one size only.")


class Embedding(BaseModel):
    """A text's."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsResponse(BaseModel):
    """Embeddings in the request's order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None = Field(description="The field that is wrong.")


class Problem(BaseModel):
    """An error."""

    message: str
    error: ErrorDetail


class TeiProblem(BaseModel):
    """An error in Text Embeddings Inference's shape."""

    error: str
    error_type: str


def _check_json(value: object, depth: int = 0) -> None:
    if depth > 16:
        raise ValueError("nested more than 16 deep")
    if isinstance(value, dict):
        for key, one in value.items():
            _check_json(key, depth)
            _check_json(one, depth + 1)
    elif isinstance(value, list):
        for one in value:
            _check_json(one, depth + 1)
    elif isinstance(value, int) and abs(value) > MANY:
        raise ValueError(f"a number beyond {MANY}; write it as a string")
    else:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # no NaN, no half of a surrogate pair
