"""Texts to token ids, as sentence-transformers reads them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING
from uuid import uuid4

from rabtriever.caching import cache_dir
from rabtriever.encoders.base import Kind
from rabtriever.encoders.sentence_model import SentenceModel
from rabtriever.errors import InputError, TextError, check_texts, first_line
from rabtriever.llm.hashing import file_hash

CHUNK = 1024  # texts

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


class SentenceTokenizer:
    """A model's tokenizer with the prompt of a kind of texts.

    Args:
        kind: ``query``, of which too long ones keep their end, or ``document``, which keep their beginning.
        prompt: Text before each text; may be empty.
        tokenizer: From :func:`load_tokenizer`.
        max_length: Tokens that the model reads.

    Attributes:
        prompt_tokens: Tokens before a text's own: special ones and the prompt's.
        prefix: Token ids that all texts begin with.
        budget: Tokens of a text that are read.
    """

    def __init__(self, kind: Kind, prompt: str, tokenizer: Tokenizer, max_length: int) -> None:
        self.kind, self.prompt, self.tokenizer, self.max_length = kind, prompt, tokenizer, max_length
        special = tokenizer.encode("a").special_tokens_mask
        self.n_before, self.n_after = special.index(0), special[::-1].index(0)
        self.prompt_tokens = self.n_before + len(tokenizer.encode(prompt, add_special_tokens=False).ids)
        # The space behind a prompt belongs to a text's first word in many vocabularies.
        fixed = tokenizer.encode(prompt.rstrip(), add_special_tokens=False).ids
        self.prefix = [*tokenizer.encode("a").ids[: self.n_before], *fixed]
        self.budget = max_length - self.prompt_tokens - self.n_after
        if self.budget < 1:
            raise InputError(f"{kind}_prompt: {prompt!r} leaves no room in the {max_length} tokens that are read")

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of texts with prompt and special tokens, truncated.

        Raises:
            TextError: a text that is blank or has no tokens.
        """
        check_texts(self.kind, texts)
        found: list[list[int]] = []
        for encoding in self._encode([self.prompt + text for text in texts], special=True):
            ids = encoding.ids
            if not self.prompt_tokens + self.n_after < len(ids) <= self.max_length:
                ids = self._truncate(len(found), texts[len(found)])
            found.append(ids)
        return found

    def count(self, texts: Sequence[str]) -> list[int]:
        """Returns the number of a text's own tokens, before truncation."""
        check_texts(self.kind, texts)
        return [len(encoding) for encoding in self._encode(texts, special=False)]

    def truncate(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Returns the texts, those of more than ``max_tokens`` tokens truncated to their first ones."""
        return [
            text if n_tokens <= max_tokens else self._head(text, max_tokens)
            for text, n_tokens in zip(texts, self.count(texts), strict=True)
        ]

    def _encode(self, texts: Sequence[str], *, special: bool) -> Iterator[Encoding]:
        """Yields encodings without offsets, which take half of the time, some at a time: they are large."""
        for start in range(0, len(texts), CHUNK):
            chunk = list(texts[start : start + CHUNK])
            yield from self.tokenizer.encode_batch_fast(chunk, add_special_tokens=special)

    def _head(self, text: str, n_tokens: int) -> str:
        _, end = self.tokenizer.encode(text, add_special_tokens=False).offsets[n_tokens - 1]
        return text[:end].strip() or text

    def _truncate(self, position: int, text: str) -> list[int]:
        """Returns the token ids of a text that is too long, or has hardly more tokens than the prompt."""
        encoding = self.tokenizer.encode(self.prompt + text)
        begin, ids = self._begin(encoding), list(encoding.ids)
        if begin == len(ids):
            raise TextError(self.kind, position, text, "has no tokens; give it another text")
        if len(ids) <= self.max_length:
            return ids
        if self.kind == "document":
            return ids[: self.max_length - self.n_after] + ids[len(ids) - self.n_after :]
        return ids[:begin] + ids[len(ids) - (self.max_length - begin) :]

    def _begin(self, encoding: Encoding) -> int:
        """Returns where a text's own tokens begin; the length if there are none. Prompt and text may share a token."""
        end = len(encoding) - self.n_after
        offsets = encoding.offsets[self.n_before : end]
        own = (i for i, (_, stop) in enumerate(offsets, self.n_before) if stop > len(self.prompt))
        return next(own, len(encoding))


def load_tokenizer(model: SentenceModel) -> tuple[Tokenizer, int]:
    """Returns a model's tokenizer, and the tokens that model and tokenizer read at most.

    transformers may change what ``tokenizer.json`` says, and takes seconds to be imported; so its result is kept in
    ``<cache folder>/tokenizers``.
    """
    from tokenizers import Tokenizer

    files = {path.name: file_hash(path) for path in model.tokenizer_files}
    lower = bool(model.modules[0].settings.get("do_lower_case"))
    key = hashlib.sha256(json.dumps([files, lower, version("transformers")], sort_keys=True).encode()).hexdigest()
    path = cache_dir() / "tokenizers" / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        cached = json.loads(path.read_text(encoding="utf-8"))
        return Tokenizer.from_str(cached["tokenizer"]), _limit(model, cached["max_length"])
    tokenizer, max_length = _convert(model, lower)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid4().hex}")
        temporary.write_text(json.dumps({"tokenizer": tokenizer.to_str(), "max_length": max_length}), encoding="utf-8")
        os.replace(temporary, path)
    return tokenizer, _limit(model, max_length)


def _limit(model: SentenceModel, of_tokenizer: int) -> int:
    positions = (model.config.get("text_config") or model.config).get("max_position_embeddings") or of_tokenizer
    return min(model.max_length or of_tokenizer, positions)


def _convert(model: SentenceModel, lower: bool) -> tuple[Tokenizer, int]:
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(model.transformer)
        tokenizer: Tokenizer = loaded.backend_tokenizer
    except Exception as error:  # a broken or missing file makes it fail in many ways
        fault = f"no tokenizer that can be used there ({first_line(error)})"
        raise InputError(f"{model.source}: {fault}; copy or download the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if lower:  # as sentence-transformers does
        rest = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    return tokenizer, int(loaded.model_max_length)
