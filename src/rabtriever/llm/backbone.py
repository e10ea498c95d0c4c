"""The LLM as an encoder: token ids in, hidden states after the final norm out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rabtriever.errors import InputError
from rabtriever.progress import Progress
from rabtriever.recent import Recent

Pooling = Literal["last", "mean"]
CACHE_BYTES = 2**29  # key/value caches of documents that are read at a time
KEPT_BYTES = 2**30  # those that are kept for further calls over the same documents
BLOCK_TOKENS = 2**14  # documents whose caches are read at a time, in tokens


class Caches(Protocol):
    """Key/value caches of documents, as a reader makes and understands them."""

    lengths: Tensor
    bytes: int


class Reader(Protocol):
    """What runs the LLM: a backend.

    Attributes:
        name: As ``backend=`` names it.
        budget: Tokens that it likes to read at a time.
        bytes_a_token: Of a token's keys and values.
    """

    name: str
    budget: int
    bytes_a_token: int

    def read(self, sequences: Sequence[Sequence[int]], pooling: Pooling) -> Tensor:
        """One state per sequence (:meth:`Backbone.states`): float32 (n, H)."""

    def read_documents(self, documents: Sequence[Sequence[int]]) -> Any:  # noqa: ANN401
        """The :class:`Caches` of document segments."""

    def read_queries(self, caches: Any, rows: Tensor, queries: Sequence[Sequence[int]]) -> Tensor:  # noqa: ANN401
        """The last token's state of each query segment behind document ``rows[i]``: float32 (n, H)."""


class Backbone:
    """Reads token ids with a causal LLM and returns hidden states after its final norm.

    The states meet lm_head directly, so what a predictor makes of them can be scored by lm_head's rows.

    Args:
        model: A causal LLM of transformers.
        make_reader: Makes the backend, when it is first needed.

    Attributes:
        tokens: Of pairs, so far: ``read``, and ``whole``, what reading each pair from its beginning would have read.
        kept: Caches of the documents read last, by the token ids of those read together.
    """

    def __init__(self, model: PreTrainedModel, make_reader: Callable[[], Reader]) -> None:
        self.model, self._make_reader = model, make_reader
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        self.tokens: Counter[str] = Counter()
        self._lock = Lock()  # several threads may read
        self._reader: Reader | None = None
        self.kept: Recent[tuple[tuple[int, ...], ...], Caches] = Recent(KEPT_BYTES)

    @property
    def reader(self) -> Reader:
        """The backend."""
        with self._lock:
            if self._reader is None:
                self._reader = self._make_reader()
        return self._reader

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @torch.inference_mode()
    def states(
        self, sequences: Sequence[Sequence[int]], pooling: Pooling = "last", progress: str | None = None
    ) -> Tensor:
        """One state per sequence, in the order given.

        Args:
            sequences: Token ids, each at least one.
            pooling: ``last``: the last token's state; ``mean``: the mean over all but the first token, which is an
                attention sink (a sequence of one token keeps it).
            progress: What to call the work on stderr; None shows nothing.

        Returns:
            float32 (n, H) on the CPU.
        """
        result = torch.empty(len(sequences), self.hidden_size)
        with Progress(progress, len(sequences)) as bar:
            for batch in token_batches([len(sequence) for sequence in sequences], self.reader.budget):
                result[batch] = self.reader.read([sequences[i] for i in batch], pooling).cpu()
                bar.advance(len(batch))
        return result

    @torch.inference_mode()
    def pair_states(
        self,
        documents: Sequence[Sequence[int]],
        queries: Sequence[Sequence[int]],
        pairs: Tensor,
        progress: str | None = None,
    ) -> Tensor:
        """The last token's state of ``documents[d] + queries[q]`` for each pair (q, d); documents are read once each.

        The caches of the last documents read are kept, up to a gigabyte, so that ranking one query after another over
        the same documents reads them once.

        Args:
            documents: Token ids of document segments.
            queries: Token ids of query segments.
            pairs: int64 (n, 2) of (query, document) positions.
            progress: What to call the work on stderr; None shows nothing.

        Returns:
            float32 (n, H) on the CPU, in the order of ``pairs``.
        """
        result = torch.empty(len(pairs), self.hidden_size)
        used, inverse = torch.unique(pairs[:, 1], return_inverse=True)
        with Progress(progress, len(pairs)) as bar:
            blocks = list(self._blocks([len(documents[d]) for d in used.tolist()]))
            texts = [tuple(tuple(documents[d]) for d in used[block].tolist()) for block in blocks]
            room = self.kept.capacity
            for block, key in zip(blocks, texts, strict=True):
                caches = self._caches(key)
                room -= caches.bytes
                if room >= 0:  # else one call's last blocks would drive out its first, and none would serve the next
                    self.kept.put(key, caches, caches.bytes)
                place = torch.full((len(used),), -1)
                place[block] = torch.arange(len(block))
                wanted = (place[inverse] >= 0).nonzero().flatten()
                # Documents of one length side by side: the cache that a batch gathers is then hardly padded.
                wanted = wanted[torch.argsort(caches.lengths.cpu()[place[inverse[wanted]]], stable=True)]
                sizes = [len(queries[q]) for q in pairs[wanted, 0].tolist()]
                before = sum(len(documents[d]) for d in pairs[wanted, 1].tolist())
                with self._lock:
                    self.tokens.update(read=sum(sizes), whole=sum(sizes) + before)
                for batch in token_batches(sizes, self.reader.budget):
                    rows = wanted[batch]
                    segments = [queries[q] for q in pairs[rows, 0].tolist()]
                    result[rows] = self.reader.read_queries(caches, place[inverse[rows]], segments).cpu()
                    bar.advance(len(batch))
        return result

    def check_length(self, tokens: int) -> None:
        """Refuse prompts that the LLM cannot read whole.

        Raises:
            InputError: ``tokens`` exceeds its positions or its sliding attention window.
        """
        config = self.model.config.get_text_config()
        windowed = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
        window = getattr(config, "sliding_window", None) if windowed else None
        limit = min(window or config.max_position_embeddings, config.max_position_embeddings)
        if tokens > limit:
            raise InputError(
                f"prompt: up to {tokens} tokens, the LLM reads {limit}; lower document_tokens or query_tokens"
            )

    def _caches(self, documents: tuple[tuple[int, ...], ...]) -> Caches:
        caches: Caches | None = self.kept.get(documents)
        if caches is None:
            caches = self.reader.read_documents(documents)
            with self._lock:
                self.tokens["read"] += sum(map(len, documents))
        return caches

    def _blocks(self, lengths: Sequence[int]) -> Iterator[Tensor]:
        """Positions of documents whose caches fit in ``CACHE_BYTES``, at most ``BLOCK_TOKENS``."""
        for batch in token_batches(lengths, max(1, min(CACHE_BYTES // self.reader.bytes_a_token, BLOCK_TOKENS))):
            yield torch.tensor(batch)


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions in batches whose padded size stays within ``budget`` tokens, longest first (memory peaks at once).

    A sequence longer than the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for position in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
