"""Requests and answers. Ours refuse fields they do not know; those of other services' clients let them pass."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from rabtriever.data import Document

Text = Annotated[str, StringConstraints(min_length=1)]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Scorer = Literal["retriever", "reranker"]
Mode = Literal["auto", "exact", "ann", "bm25"]
MANY = 2**53  # the largest whole number that JSON's readers agree on


class Ours(BaseModel):
    """A request in a shape of our own."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Theirs(BaseModel):
    """A request in another service's shape."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class SearchRequest(Ours):
    """Queries and how to search."""

    query: Text | None = Field(None, description="One query: answered by `hits`.")
    queries: list[Text] | None = Field(None, min_length=1, description="Several: answered by `results`.")
    k: int = Field(10, ge=1, description="Hits a query.")
    where: str | None = Field(None, description="SQL condition over id, title, text and metadata.")
    mode: Mode = Field("auto", description="exact, ann (approximate), auto, or bm25: its ranking alone.")
    hybrid: Literal["union", "rrf"] | None = Field(None, description="Join BM25's documents or ranking.")
    rerank: int | None = Field(None, ge=1, description="How many of the best the reranker judges.")
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


class TextDocument(Theirs):
    """A document as an object."""

    model_config = ConfigDict(strict=True, extra="allow")
    text: str | None = None


class RerankRequest(Theirs):
    """Cohere's and Jina's shape."""

    model: Scorer = Field("retriever", description="Who judges; the reranker reads every pair with the LLM.")
    query: Text
    documents: list[Text | TextDocument] | None = Field(None, min_length=1)
    texts: list[Text] | None = Field(None, min_length=1, description="The same as documents.")
    top_n: int | None = Field(None, ge=0, description="How many to return; all if missing or 0.")
    return_documents: bool | None = False
    rank_fields: list[str] | None = Field(None, description="Fields of document objects to read; text if missing.")
    max_tokens_per_doc: int | None = Field(None, ge=1, description="Cut documents further than the model does.")

    @model_validator(mode="after")
    def _has_documents(self) -> RerankRequest:
        if (self.documents is None) == (self.texts is None):
            raise ValueError("give documents, or texts")
        return self

    def contents(self) -> list[str]:
        """What is to be judged.

        Raises:
            ValueError: a document without text.
        """
        return [self._content(i, one) for i, one in enumerate(self.documents or self.texts or [])]

    def _content(self, place: int, document: str | TextDocument) -> str:
        if isinstance(document, str):
            return document
        values = {"text": document.text, **(document.model_extra or {})}
        found = [(field, values[field]) for field in self.rank_fields or ["text"] if values.get(field)]
        if not found:
            raise ValueError(f"documents.{place}: no text in it")
        return str(found[0][1]) if len(found) == 1 else "\n".join(f"{field}: {value}" for field, value in found)


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


class TeiRequest(Theirs):
    """Text Embeddings Inference's shape."""

    query: Text
    texts: list[Text] = Field(min_length=1)
    raw_scores: bool = Field(False, description="Log-odds instead of probabilities.")
    return_text: bool = False
    truncate: bool | None = Field(False, description="Texts are cut to the model's budget in any case.")
    truncation_direction: str = Field(
        "right", pattern="^[Rr][Ii][Gg][Hh][Tt]$", description="Documents keep their head."
    )
    model: Scorer = "retriever"


class TeiResult(BaseModel):
    """A text's place."""

    index: int
    score: float
    text: str | None = None


class NewDocument(Ours):
    """A document to add."""

    id: Identifier
    text: str = ""
    title: str = ""
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


class DocumentsRequest(Ours):
    """Documents to add in one transaction."""

    documents: list[NewDocument] = Field(min_length=1)
    upsert: bool = Field(True, description="Replace documents whose ids are there; else they are an error, 409.")


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


class EmbeddingsRequest(Theirs):
    """OpenAI's shape."""

    model: Literal["rabtriever-query", "rabtriever-document"]
    input: Text | list[Text]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="Only the model's own number.")

    @field_validator("input")
    @classmethod
    def _not_empty(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("give at least one text")
        return value


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
