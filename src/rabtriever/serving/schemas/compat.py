"""Requests and responses in the shapes of other services; requests ignore unknown fields."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rabtriever.errors import has_half_character
from rabtriever.serving.schemas.native import (
    MAX_FIELDS,
    MAX_TEXT_LENGTH,
    MAX_TEXTS,
    LimitedText,
    NonBlankText,
    NonNegativeInt,
    Texts,
    invalid,
    one_of,
)

Scorer = Literal["retriever", "reranker"]


class CompatRequest(BaseModel):
    """A request in another service's shape."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class RerankRequest(CompatRequest):
    """Cohere's and Jina's shape."""

    model_config = ConfigDict(
        json_schema_extra=one_of("anyOf", {"documents": {"type": "array"}, "texts": {"type": "array"}})
    )
    model: Scorer = Field("retriever", description="What scores; the reranker reads every pair with the LLM.")
    query: NonBlankText
    documents: list[NonBlankText | dict[str, Any]] | None = Field(None, min_length=1, max_length=MAX_TEXTS)
    texts: Texts | None = Field(None, description="The same as documents.")
    top_n: NonNegativeInt | None = Field(None, description="How many to return; all if missing or 0.")
    return_documents: bool | None = False
    rank_fields: list[LimitedText] | None = Field(
        None, max_length=MAX_FIELDS, description="Fields of document objects to read, instead of text."
    )
    max_tokens_per_doc: NonNegativeInt | None = Field(
        None, description="Truncate documents further than the model does; 0: no further."
    )

    @model_validator(mode="after")
    def _has_documents(self) -> RerankRequest:
        if self.documents is None and self.texts is None:
            raise invalid("give documents, or texts")
        try:
            texts = self.contents()
        except RecursionError:
            raise invalid("documents: one is nested too deep") from None
        if any(len(text) > MAX_TEXT_LENGTH for text in texts):
            raise invalid(f"documents: one of more than {MAX_TEXT_LENGTH} characters")
        if any(map(has_half_character, texts)):  # pydantic looks into no object
            raise invalid("documents: one holds half of a surrogate pair; write the character whole")
        return self

    def contents(self) -> list[str]:
        """Returns the texts to score."""
        return [one if isinstance(one, str) else self._content(one) for one in self.documents or self.texts or []]

    def _content(self, document: dict[str, Any]) -> str:
        chosen = [f"{field}: {document[field]}" for field in self.rank_fields or [] if document.get(field)]
        if chosen:
            return "\n".join(chosen)
        text = document.get("text")
        return text if isinstance(text, str) and text.strip() else json.dumps(document, ensure_ascii=False)


class RerankResult(BaseModel):
    """A document's score."""

    index: int = Field(description="Its position in the request.")
    relevance_score: float = Field(description="Calibrated probability that it is relevant to the query.")
    log_odds: float
    document: dict[str, str] | None = Field(None, description="Its text, if asked for.")


class Usage(BaseModel):
    """Number of tokens that were read."""

    prompt_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, tokens: int) -> Usage:
        """Returns what another service would report of so many tokens."""
        return cls(prompt_tokens=tokens, total_tokens=tokens)


class RerankResponse(BaseModel):
    """Documents, the most probable first; ties in the request's order."""

    id: str
    model: str
    results: list[RerankResult]
    usage: Usage
    meta: dict[str, Any]


class TEIRequest(CompatRequest):
    """Text Embeddings Inference's shape."""

    query: NonBlankText
    texts: Texts
    raw_scores: bool = Field(False, description="Log-odds instead of probabilities.")
    return_text: bool = False
    truncate: bool | None = Field(False, description="Texts are truncated to the model's budget in any case.")
    truncation_direction: str = Field(
        "right", pattern="^[Rr][Ii][Gg][Hh][Tt]$", description="Documents keep their beginning."
    )
    model: Scorer = "retriever"


class TEIResult(BaseModel):
    """A text's score."""

    index: int
    score: float
    text: str | None = None


class TEIErrorResponse(BaseModel):
    """An error in Text Embeddings Inference's shape."""

    error: str
    error_type: str


class EmbeddingsRequest(CompatRequest):
    """OpenAI's shape."""

    model: Literal["rabtriever-query", "rabtriever-document"]
    input: NonBlankText | Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = Field(None, description="Vectors have one size only.")


class Embedding(BaseModel):
    """A text's vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsResponse(BaseModel):
    """Embeddings in the request's order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
