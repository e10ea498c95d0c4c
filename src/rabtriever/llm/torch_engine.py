"""The reference engine: any LLM of transformers, on any device, differentiable; right-padded batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rabtriever.llm.backbone import Pooling, sliding_window, token_batches

TOKEN_BUDGET = 2048  # tokens of a padded batch; on a CPU more is not faster
# Padded sizes are multiples of these. Libraries choose the order of a sum by its size, so a text's log-odds depend on
# the other texts of its batch: by up to 0.3 in bfloat16 and 1e-5 in float32; with multiples, by 7e-6 in both.
PAD_TOKENS_TO, PAD_CACHE_TO = 16, 64
Layers = list[tuple[Tensor, Tensor]]  # keys and values (n, heads, longest, head size) of each layer


class TorchKVCache:
    """Keys and values of document segments, and ``means`` (n, H): what ``encode`` returns for them with ``mean``."""

    def __init__(self, layers: Layers, lengths: Tensor, means: Tensor) -> None:
        self.layers, self.lengths, self.means = layers, lengths, means
        self.nbytes = sum(keys.nbytes + values.nbytes for keys, values in layers)

    def split(self) -> list[TorchKVCache]:
        """Returns a cache per document, without padding; each owns its memory."""
        return [
            TorchKVCache(
                [(keys[i : i + 1, :, :n].clone(), values[i : i + 1, :, :n].clone()) for keys, values in self.layers],
                self.lengths[i : i + 1].clone(),
                self.means[i : i + 1].clone(),
            )
            for i, n in enumerate(self.lengths.tolist())
        ]


class TorchEngine:
    """Computes with transformers' own code; see :class:`rabtriever.llm.backbone.Engine`.

    The model may be in training mode; gradients flow unless the caller switches them off. With ``pad``, batches are
    padded to multiples of fixed sizes, so that a text's state hardly depends on the other texts of its batch.
    """

    name = "torch"
    token_budget = TOKEN_BUDGET

    def __init__(self, model: PreTrainedModel, *, pad: bool = True) -> None:
        self.model = model
        self._pad_tokens_to, self._pad_cache_to = (PAD_TOKENS_TO, PAD_CACHE_TO) if pad else (1, 1)
        self._window = sliding_window(model.config)
        self.decoder = model.get_decoder()
        text = model.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.kv_bytes_per_token = 2 * text.num_hidden_layers * heads * width * model.dtype.itemsize

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    def encode(self, sequences: Sequence[Sequence[int]], pooling: Pooling = "last") -> Tensor:
        """Returns one state per sequence: float32 (n, H), on the model's device."""
        batches, order = self._batches(sequences)
        states = []
        for ids, lengths in batches:
            hidden = self.decoder(input_ids=ids, attention_mask=_mask(lengths, ids.shape[1]), use_cache=False)
            states.append(pool(hidden.last_hidden_state.float(), lengths, pooling))
        return torch.cat(states)[order]

    def prefill(self, documents: Sequence[Sequence[int]]) -> TorchKVCache:
        """Returns the keys and values of document segments, right-padded."""
        batches, order = self._batches(documents)
        caches = []
        for ids, lengths in batches:
            past = DynamicCache()
            mask = _mask(lengths, ids.shape[1])
            hidden = self.decoder(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=True)
            layers: Layers = [(layer.keys, layer.values) for layer in past.layers]  # type: ignore[union-attr,misc]
            caches.append(TorchKVCache(layers, lengths, pool(hidden.last_hidden_state.float(), lengths, "mean")))
        joined = self.join(caches)
        layers = [(keys[order], values[order]) for keys, values in joined.layers]
        return TorchKVCache(layers, joined.lengths[order], joined.means[order])

    def join(self, caches: Sequence[TorchKVCache]) -> TorchKVCache:
        """Returns several documents' caches as one, right-padded."""
        lengths = torch.cat([cache.lengths for cache in caches])
        width = _padded_size(int(lengths.max()), self._pad_cache_to)

        def join(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat([F.pad(part, (0, 0, 0, width - part.shape[2])) for part in parts])

        layers = zip(*(cache.layers for cache in caches), strict=True)  # the same layer of each cache
        joined = [(join(keys), join(values)) for keys, values in (zip(*layer, strict=True) for layer in layers)]
        return TorchKVCache(joined, lengths, torch.cat([cache.means for cache in caches]))

    def encode_with_prefix(self, cache: TorchKVCache, rows: Tensor, queries: Sequence[Sequence[int]]) -> Tensor:
        """Returns the last token's state of each query segment after document ``rows[i]``: float32 (n, H).

        A sliding window counts slots, padding included: cache and queries together are never padded beyond it.
        """
        rows = rows.to(self.device)
        before = cache.lengths[rows]
        longest = max(map(len, queries))
        width = _padded_size(int(before.max()), self._pad_cache_to, self._window and self._window - longest)
        ids, lengths = self._pad(queries, self._window and self._window - width)
        past = DynamicCache()
        for layer, (keys, values) in enumerate(cache.layers):
            past.update(keys[rows, :, :width], values[rows, :, :width], layer)
        positions = before[:, None] + torch.arange(ids.shape[1], device=self.device)
        mask = torch.cat([_mask(before, width), _mask(lengths, ids.shape[1])], dim=1)
        hidden = self.decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
        )
        return pool(hidden.last_hidden_state, lengths, "last").float()

    def _batches(self, sequences: Sequence[Sequence[int]]) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Returns padded batches (:meth:`_pad`) of similar lengths, and what restores the order of their rows."""
        batches = list(token_batches([len(sequence) for sequence in sequences], TOKEN_BUDGET))
        order = torch.tensor([i for batch in batches for i in batch]).argsort().to(self.device)
        return [self._pad([sequences[i] for i in batch]) for batch in batches], order

    def _pad(self, sequences: Sequence[Sequence[int]], limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns right-padded ids (n, width) and lengths (n,); padding is masked."""
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        width = _padded_size(int(lengths.max()), self._pad_tokens_to, limit)
        ids = torch.zeros(len(sequences), width, dtype=torch.long)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = torch.as_tensor(sequence)
        return ids.to(self.device), lengths.to(self.device)


def _padded_size(size: int, multiple: int, limit: int | None = None) -> int:
    """Returns the next multiple, or less so as not to exceed ``limit``, but never less than ``size``."""
    padded = -(-size // multiple) * multiple
    return padded if limit is None else max(size, min(padded, limit))


def _mask(lengths: Tensor, width: int) -> Tensor:
    return (torch.arange(width, device=lengths.device) < lengths[:, None]).long()


def pool(hidden: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """Returns each row's last state, or the mean of its states without the first: (n, L, H), int64 (n,) -> (n, H)."""
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    counted = _mask(lengths, hidden.shape[1])
    counted[:, 0] = (lengths == 1).long()
    return (hidden * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
