"""The LLM as an encoder: token ids in, hidden states after the final norm out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rabtriever.errors import InputError
from rabtriever.progress import Progress

Pooling = Literal["last", "mean"]
TOKEN_BUDGET = 2048  # tokens of a batch; on a CPU more is not faster
CACHE_BYTES = 2**29  # key/value caches of documents that are read at a time
KEPT_BYTES = 2**30  # those that are kept for the next call over the same documents


class Backbone:
    """Reads token ids with a causal LLM and returns hidden states after its final norm.

    The states meet lm_head directly, so what a predictor makes of them can be scored by lm_head's rows.

    Args:
        model: A causal LLM of transformers (Llama, Qwen2, Qwen3, Gemma 3, Mistral, ...). It may be in training mode;
            gradients flow unless the caller switches them off.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.decoder = model.get_decoder()
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        self._kept: dict[tuple[tuple[int, ...], ...], Prefixes] = {}

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
            for batch in token_batches([len(sequence) for sequence in sequences], TOKEN_BUDGET):
                result[batch] = self._read([sequences[i] for i in batch], pooling).cpu()
                bar.advance(len(batch))
        return result

    def read(self, sequences: Sequence[Sequence[int]], pooling: Pooling = "last") -> Tensor:
        """:meth:`states`, differentiable and on the model's device."""
        batches = list(token_batches([len(sequence) for sequence in sequences], TOKEN_BUDGET))
        order = torch.tensor([i for batch in batches for i in batch]).argsort().to(self.device)
        return torch.cat([self._read([sequences[i] for i in batch], pooling) for batch in batches])[order]

    @torch.inference_mode()
    def pair_states(
        self,
        documents: Sequence[Sequence[int]],
        queries: Sequence[Sequence[int]],
        pairs: Tensor,
        progress: str | None = None,
    ) -> Tensor:
        """The last token's state of ``documents[d] + queries[q]`` for each pair (q, d); documents are read once each.

        The caches of the last documents read are kept, so that ranking one query after another over the same documents
        reads them once.

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
            self._kept = {key: self._kept[key] for key in texts if key in self._kept}
            for block, key in zip(blocks, texts, strict=True):
                prefixes = self._kept_prefixes(key)
                place = torch.full((len(used),), -1)
                place[block] = torch.arange(len(block))
                wanted = (place[inverse] >= 0).nonzero().flatten()
                # Documents of one length side by side: the cache that a batch gathers is then hardly padded.
                wanted = wanted[torch.argsort(prefixes.lengths.cpu()[place[inverse[wanted]]], stable=True)]
                sizes = [len(queries[q]) for q in pairs[wanted, 0].tolist()]
                for batch in token_batches(sizes, TOKEN_BUDGET):
                    rows = wanted[batch]
                    segments = [queries[q] for q in pairs[rows, 0].tolist()]
                    result[rows] = self.read_queries(prefixes, place[inverse[rows]], segments).cpu()
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

    def read_documents(self, documents: Sequence[Sequence[int]]) -> Prefixes:
        """The key/value caches of document segments, right-padded; differentiable."""
        lengths = torch.tensor([len(document) for document in documents])
        batches = list(token_batches(lengths.tolist(), TOKEN_BUDGET))  # of like lengths: little padding is read
        caches, means = [], []
        for batch in batches:
            ids, read = self._pad([documents[i] for i in batch])
            cache = DynamicCache()
            mask = _mask(read, ids.shape[1])
            hidden = self.decoder(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
            caches.append(cache)
            means.append(_pool(hidden.last_hidden_state.float(), read, "mean"))
        order = torch.tensor([i for batch in batches for i in batch]).argsort().to(self.device)
        longest = int(lengths.max())

        def joined(parts: list[Tensor]) -> Tensor:
            return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[2])) for part in parts])[order]

        layers = [
            (joined([layer.keys for layer in same]), joined([layer.values for layer in same]))
            for same in zip(*(cache.layers for cache in caches), strict=True)
        ]
        return Prefixes(layers, lengths.to(self.device), torch.cat(means)[order])

    def read_queries(self, prefixes: Prefixes, rows: Tensor, queries: Sequence[Sequence[int]]) -> Tensor:
        """The last token's state of each query segment read behind document ``rows[i]``; differentiable.

        Returns:
            float32 (n, H) on the model's device.
        """
        ids, lengths = self._pad(queries)
        rows = rows.to(self.device)
        before = prefixes.lengths[rows]
        width = int(before.max())
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(prefixes.layers):
            cache.update(keys[rows, :, :width], values[rows, :, :width], layer)
        positions = before[:, None] + torch.arange(ids.shape[1], device=self.device)
        mask = torch.cat([_mask(before, width), _mask(lengths, ids.shape[1])], dim=1)
        hidden = self.decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return _pool(hidden.last_hidden_state, lengths, "last").float()

    def _read(self, sequences: list[Sequence[int]], pooling: Pooling) -> Tensor:
        ids, lengths = self._pad(sequences)
        hidden = self.decoder(input_ids=ids, attention_mask=_mask(lengths, ids.shape[1]), use_cache=False)
        return _pool(hidden.last_hidden_state.float(), lengths, pooling)

    def _kept_prefixes(self, documents: tuple[tuple[int, ...], ...]) -> Prefixes:
        prefixes = self._kept.get(documents) or self.read_documents(documents)
        if sum(kept.bytes for kept in self._kept.values()) + prefixes.bytes <= KEPT_BYTES:
            self._kept[documents] = prefixes
        return prefixes

    def _blocks(self, lengths: Sequence[int]) -> Iterator[Tensor]:
        """Positions of documents whose caches fit in ``CACHE_BYTES``, in batches of eight times the token budget."""
        text = self.model.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        bytes_a_token = 2 * text.num_hidden_layers * heads * width * self.model.dtype.itemsize
        for batch in token_batches(lengths, max(1, min(CACHE_BYTES // bytes_a_token, 8 * TOKEN_BUDGET))):
            yield torch.tensor(batch)

    def _pad(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Right-padded ids (n, longest) and lengths (n,). What stands in the padding is masked and never read."""
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        ids = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = torch.as_tensor(sequence)
        return ids.to(self.device), lengths.to(self.device)


class Prefixes:
    """Key/value caches of document segments.

    Args:
        layers: Per layer, keys and values (n, heads, longest, head size).
        lengths: int64 (n,) tokens of each document.
        means: float32 (n, H), what :meth:`Backbone.read` gives of them with ``mean``.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]], lengths: Tensor, means: Tensor) -> None:
        self.layers = layers
        self.lengths = lengths
        self.means = means
        self.bytes = sum(keys.nbytes + values.nbytes for keys, values in layers)


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


def _mask(lengths: Tensor, width: int) -> Tensor:
    return (torch.arange(width, device=lengths.device) < lengths[:, None]).long()


def _pool(hidden: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    kept = _mask(lengths, hidden.shape[1])
    kept[:, 0] = (lengths == 1).long()
    return (hidden * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
