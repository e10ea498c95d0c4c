"""The prompt: a document segment and a query segment, the second of which ends in the answer cue, and two choices."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rabtriever.errors import InputError, TextError, check_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KINDS = {int: "a whole number", str: "a string", bool: "true or false"}


@dataclass(frozen=True)
class PromptTemplate:
    """The text around a document and a query; saved with the weights, never a call option.

    Attributes:
        document: Document segment, with ``{document}`` in it; first, so that one key/value cache serves all queries.
        query: Query segment, with ``{query}`` in it. The segment that comes second ends in the answer cue.
        yes: Choice for "this document is relevant to this query"; one token.
        no: The other choice; one token.
        document_tokens: Budget of the document's own text in tokens; a longer one loses its end.
        query_tokens: Budget of the query's own text in tokens; a longer one loses its beginning (dialogues end with
            what matters). Budgets apply before assembly, so the cue is never cut away.
        query_first: Whether the query comes before the document, for LLMs that were trained so; then a query's cache
            serves all its documents.
    """

    document: str = "Document: {document}\n"
    query: str = "Query: {query}\nRelevant?"
    yes: str = " yes"
    no: str = " no"
    document_tokens: int = 256
    query_tokens: int = 224
    query_first: bool = False

    def __post_init__(self) -> None:
        """Raises InputError for a wrong type, a placeholder missing or doubled, a blank choice, a budget below one."""
        for name, value in asdict(self).items():
            kind = int if name.endswith("_tokens") else bool if name == "query_first" else str
            if type(value) is not kind:
                raise InputError(f"prompt.{name}: {value!r} must be {_KINDS[kind]}")
        for name in ("document", "query"):
            if getattr(self, name).count(f"{{{name}}}") != 1:
                raise InputError(f"prompt.{name}: {getattr(self, name)!r} must hold {{{name}}} exactly once")
        if not self.yes.strip() or not self.no.strip() or self.yes == self.no:
            raise InputError(f"prompt choices {self.yes!r} and {self.no!r}: give two different, non-blank texts")
        if min(self.document_tokens, self.query_tokens) < 1:
            raise InputError("prompt budgets: document_tokens and query_tokens must be at least 1")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PromptTemplate:
        """Returns a saved template.

        Raises:
            InputError: a field that a template does not have.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            fields = ", ".join(cls.__dataclass_fields__)
            raise InputError(f"prompt: unknown field {unknown[0]!r}; the fields are {fields}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the template as JSON-ready values; ``query_first`` only if it holds, as older models have none."""
        values = asdict(self)
        return values if self.query_first else {name: values[name] for name in values if name != "query_first"}


class _Segment(NamedTuple):
    """Token ids around a field, and the space before the field, which belongs to its first word in BPE vocabularies."""

    head: list[int]
    tail: list[int]
    space: str


@dataclass
class Prompt:
    """A template bound to a tokenizer: text in, token ids out.

    Blank texts and texts of zero tokens raise TextError with their position. ``n_truncated`` counts the documents and
    queries that lost tokens to their budget.
    """

    template: PromptTemplate
    tokenizer: PreTrainedTokenizerBase
    n_truncated: dict[str, int] = field(default_factory=lambda: {"document": 0, "query": 0})

    def __post_init__(self) -> None:
        """Tokenises the fixed parts once and resolves the choices in context."""
        self._segments = {name: self._split(name) for name in ("document", "query")}
        self.choice_ids = (self._choice(self.template.yes), self._choice(self.template.no))

    def document_ids(self, texts: Sequence[str], *, with_bos: bool = True) -> list[list[int]]:
        """Returns the document segments.

        With ``with_bos`` they begin with the LLM's start token: if they come first, and as the encoder reads them.
        """
        fields, budget = self._tokenize_field("document", texts), self.template.document_tokens
        self._count_truncated("document", fields, budget)
        head, tail, _ = self._segments["document"]
        head = self._with_bos(head) if with_bos else head
        return [head + ids[:budget] + tail for ids in fields]

    def query_ids(self, texts: Sequence[str], *, with_bos: bool = False) -> list[list[int]]:
        """Returns the query segments.

        With ``with_bos`` they begin with the LLM's start token: if they come first, and as the encoder reads them.
        """
        fields, budget = self._tokenize_field("query", texts), self.template.query_tokens
        self._count_truncated("query", fields, budget)
        head, tail, _ = self._segments["query"]
        head = self._with_bos(head) if with_bos else head
        return [head + ids[-budget:] + tail for ids in fields]

    def count_tokens(self, name: str, texts: Sequence[str]) -> list[int]:
        """Returns the number of tokens of each ``document`` or ``query`` before truncation."""
        return [len(ids) for ids in self._tokenize_field(name, texts)]

    def truncate_documents(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Returns the texts, those of more than ``max_tokens`` tokens truncated to their first ones."""
        return [
            str(self.tokenizer.decode(ids[:max_tokens])).strip() or text if len(ids) > max_tokens else text
            for text, ids in zip(texts, self._tokenize_field("document", texts), strict=True)
        ]

    @property
    def shared_prefixes(self) -> list[list[int]]:
        """Token ids that all documents, and all queries, begin with where they stand first or alone."""
        return [self._with_bos(segment.head) for segment in self._segments.values()]

    @property
    def max_tokens(self) -> int:
        """Length of the longest prompt that the budgets allow, in tokens."""
        document, query = self._segments.values()
        first, second = (query, document) if self.template.query_first else (document, query)
        fixed = self._with_bos(first.head) + first.tail + second.head + second.tail
        return len(fixed) + self.template.document_tokens + self.template.query_tokens

    def _with_bos(self, head: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id  # a chat template begins with it by itself
        return head if bos is None or head[:1] == [bos] else [bos, *head]

    def _count_truncated(self, name: str, fields: list[list[int]], budget: int) -> None:
        longer = [len(ids) for ids in fields if len(ids) > budget]
        if longer and not self.n_truncated[name]:
            limit = f"{name}_tokens={budget}"
            message = f"a {name} of {longer[0]} tokens is truncated to the prompt's {limit}; further ones are counted"
            warnings.warn(message, stacklevel=4)
        self.n_truncated[name] += len(longer)

    def _split(self, name: str) -> _Segment:
        head, tail = getattr(self.template, name).split(f"{{{name}}}")
        bare = head.rstrip(" ")
        return _Segment(self._ids([bare])[0], self._ids([tail])[0], head[len(bare) :])

    def _tokenize_field(self, name: str, texts: Sequence[str]) -> list[list[int]]:
        check_texts(name, texts)
        space = self._segments[name].space
        # A text that spells a control token stays text.
        fields = self._ids([space + text.strip() for text in texts], split_special_tokens=True)
        if [] in fields:
            position = fields.index([])
            raise TextError(name, position, texts[position], "has no tokens; give it another text")
        return fields

    def _ids(self, texts: Sequence[str], **options: bool) -> list[list[int]]:
        if not texts:
            return []
        return list(self.tokenizer(list(texts), add_special_tokens=False, verbose=False, **options)["input_ids"])

    def _choice(self, text: str) -> int:
        """Returns the id that ``text`` adds after the answer cue, since a word's id depends on the text before it."""
        second = "document" if self.template.query_first else "query"
        cue = getattr(self.template, second).split(f"{{{second}}}")[1]
        before, after = self._ids([cue, cue + text]) if cue else ([], self._ids([text])[0])
        added = after[len(before) :]
        if after[: len(before)] != before or len(added) != 1:
            pieces = self.tokenizer.convert_ids_to_tokens(added)
            raise InputError(
                f"choice {text!r} is {pieces} after the cue {cue!r}; choose a text that adds exactly one token"
            )
        return added[0]


def deduplicate(sequences: Sequence[Sequence[int]]) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Returns the distinct sequences of token ids, and each sequence's position among them, int64 (n,)."""
    position_of = {sequence: i for i, sequence in enumerate(dict.fromkeys(map(tuple, sequences)))}
    return list(position_of), np.array([position_of[tuple(sequence)] for sequence in sequences], np.int64)
