"""Llama-like LLMs on a CPU: int8 matrix products, texts packed end to end without padding, every row by itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rabtriever.llm.backbone import Pooling
from rabtriever.llm.int8.forward import forward
from rabtriever.llm.int8.gang import run_in_threads
from rabtriever.llm.int8.matmul import ROWS
from rabtriever.llm.int8.rotation import mixing_block, orthogonal
from rabtriever.llm.int8.weights import convert, stack

MIN_ROWS_PER_THREAD = 8  # of a thread
MAX_IMBALANCE = 1.15  # share of a thread's rows, relative to equal ones, up to which texts are not divided


@dataclass
class PackedKVCache:
    """Keys and values of texts.

    Attributes:
        rows: uint16 (layers, tokens, 2 * key heads * head size), float16's bits.
        starts: int64 (n,), where each text begins.
        lengths: int64 (n,), its tokens.
    """

    rows: np.ndarray
    starts: Tensor
    lengths: Tensor

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.rows.nbytes

    def split(self) -> list[PackedKVCache]:
        """Returns a cache per document; each owns its memory."""
        spans = zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        return [
            PackedKVCache(self.rows[:, start : start + n].copy(), torch.tensor([0]), torch.tensor([n]))
            for start, n in spans
        ]


@dataclass(eq=False)
class SharedPrefix:
    """First tokens that texts share.

    Attributes:
        tokens: Their ids; there may be none.
        rows: As in :class:`PackedKVCache`.
        states: float32 (tokens, H) after the final norm.
    """

    tokens: tuple[int, ...]
    rows: np.ndarray
    states: Tensor


@dataclass
class Batch:
    """Texts, packed, that are read together.

    Attributes:
        ids: int64 (n,).
        ends: int64 (texts + 1,), 0 and where each text ends.
        positions: int64 (n,), in each text, what was read before included.
        past: What was read of each text before.
        store: uint16 (layers or 2, rows, 2 * key heads * head size), where keys and values go.
        cache_rows: int64 (n,), each token's row there.
        last: Whether only each text's last state is wanted.
        rope: float32 (2, positions, head size / 2), at least as many as are needed.
    """

    ids: Tensor
    ends: np.ndarray
    positions: np.ndarray
    past: PackedKVCache
    store: np.ndarray
    cache_rows: np.ndarray
    last: bool
    rope: np.ndarray


class Int8Engine:
    """Reads with int8 products and float32 between them; see :class:`rabtriever.llm.backbone.Reader`.

    A text's head, the fixed tokens of its prompt, is read once in float32 and serves all texts: the first token's huge
    states would be what eight bits cannot hold.

    Args:
        model: A Llama-like LLM on the CPU.
        heads: Token ids that texts will begin with.
    """

    name = "int8"
    device = torch.device("cpu")
    token_budget = 1024

    def __init__(self, model: PreTrainedModel, heads: Sequence[Sequence[int]] = ()) -> None:
        config = model.config.get_text_config()
        self.decoder = model.get_decoder()
        self.key_heads, self.heads = config.num_key_value_heads, config.num_attention_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.kv_width = 2 * self.key_heads * self.size
        self.kv_bytes_per_token = 2 * self.kv_width * config.num_hidden_layers
        self.epsilon = np.float32(config.rms_norm_eps)
        units = config.intermediate_size
        self.shape = (self.heads, self.key_heads, self.size, units, mixing_block(units))
        turn = orthogonal(config.hidden_size)
        # float64, since float32's rounding would depend on how many rows there are, and a code may hang on it.
        self.rotation = turn.double()
        with torch.inference_mode():
            self.inverse_rotation = turn.T * self.decoder.norm.weight.float()
            layers = [convert(layer, self.size, turn) for layer in self.decoder.layers]
            self.qkv, self.out, self.gate_up, self.down = (
                stack([getattr(layer, name) for layer in layers]) for name in ("qkv", "out", "gate_up", "down")
            )
            self.bias, self.norms = (
                np.stack([layer.bias for layer in layers]),
                np.stack([layer.norms for layer in layers]),
            )
            self.rope = self._rope(1024)
            known = sorted({tuple(head) for head in heads if head}, key=len, reverse=True)
            self.shared_prefixes = [self._head(tokens) for tokens in known]
        none = np.empty((len(self.bias), 0, self.kv_width), np.uint16)
        self.shared_prefixes.append(SharedPrefix((), none, torch.empty(0, config.hidden_size)))

    @torch.inference_mode()
    def encode(self, sequences: Sequence[Sequence[int]], pooling: Pooling = "last") -> Tensor:
        """One state per sequence: float32 (n, H)."""
        heads, rest = self._split(sequences)
        starts = np.cumsum([0, *(len(head.tokens) for head in self.shared_prefixes)])
        past = PackedKVCache(
            np.concatenate([head.rows for head in self.shared_prefixes], axis=1),
            torch.tensor([starts[self.shared_prefixes.index(head)] for head in heads]),
            torch.tensor([len(head.tokens) for head in heads]),
        )
        hidden, ends = self._forward(rest, past, pooling == "last")
        if pooling == "last":
            return hidden @ self.inverse_rotation
        sums = torch.from_numpy(np.add.reduceat(hidden.numpy(), ends[:-1]))
        whole = torch.tensor([not head.tokens and len(text) > 1 for head, text in zip(heads, rest, strict=True)])
        sums[whole] -= hidden[torch.from_numpy(ends[:-1])[whole]]  # the first token, which does not count
        sums = sums @ self.inverse_rotation + torch.stack([head.states[1:].sum(0) for head in heads])
        return sums / torch.tensor([[max(1, len(sequence) - 1)] for sequence in sequences])

    @torch.inference_mode()
    def prefill(self, documents: Sequence[Sequence[int]]) -> PackedKVCache:
        """Keys and values of document segments."""
        heads, rest = self._split(documents)
        lengths = torch.tensor([len(document) for document in documents])
        before = torch.tensor([len(head.tokens) for head in heads])
        starts = lengths.cumsum(0) - lengths
        rows = np.empty((len(self.bias), int(lengths.sum()), self.kv_width), np.uint16)
        for start, head in zip(starts.tolist(), heads, strict=True):
            rows[:, start : start + len(head.tokens)] = head.rows
        cache_rows = torch.cat(
            [torch.arange(a, b) for a, b in zip(starts + before, starts + lengths, strict=True)]
        ).numpy()
        done = 0
        for i, j in _batch_spans([len(text) for text in rest], self.token_budget):
            count = sum(map(len, rest[i:j]))
            self._forward(
                rest[i:j], PackedKVCache(rows, starts[i:j], before[i:j]), True, cache_rows[done : done + count]
            )
            done += count
        return PackedKVCache(rows, starts, lengths)

    def join(self, caches: Sequence[PackedKVCache]) -> PackedKVCache:
        """Returns several documents' caches as one."""
        lengths = torch.cat([cache.lengths for cache in caches])
        return PackedKVCache(np.concatenate([c.rows for c in caches], axis=1), lengths.cumsum(0) - lengths, lengths)

    @torch.inference_mode()
    def encode_with_prefix(self, caches: PackedKVCache, rows: Tensor, queries: Sequence[Sequence[int]]) -> Tensor:
        """The last token's state of each query segment behind document ``rows[i]``: float32 (n, H)."""
        past = PackedKVCache(caches.rows, caches.starts[rows], caches.lengths[rows])
        return self._forward(queries, past, True)[0] @ self.inverse_rotation

    def _split(self, sequences: Sequence[Sequence[int]]) -> tuple[list[SharedPrefix], list[Sequence[int]]]:
        """Each text's head, and what is left to read, at least one token."""
        heads = []
        for sequence in sequences:
            sizes = ((head, len(head.tokens)) for head in self.shared_prefixes)
            heads.append(next(h for h, n in sizes if n < len(sequence) and tuple(sequence[:n]) == h.tokens))
        return heads, [sequence[len(head.tokens) :] for sequence, head in zip(sequences, heads, strict=True)]

    def _forward(
        self, texts: Sequence[Sequence[int]], past: PackedKVCache, last: bool, cache_rows: np.ndarray | None = None
    ) -> tuple[Tensor, np.ndarray]:
        """Turned states after the final norm, of all tokens or each text's last; and 0 and where texts end.

        With ``cache_rows``, keys and values go there in ``past.rows``.
        """
        ids = torch.tensor([token for text in texts for token in text])
        ends = np.cumsum([0, *map(len, texts)])
        positions = np.concatenate(
            [p + np.arange(len(text)) for p, text in zip(past.lengths.tolist(), texts, strict=True)]
        )
        rope = self.rope  # another thread may put another there
        if positions.max() >= rope.shape[1]:
            self.rope = rope = self._rope(2 * int(positions.max()))
        store = past.rows
        if cache_rows is None:  # a layer's are forgotten after the next: a thread may be so far ahead
            store, cache_rows = np.empty((2, len(ids), self.kv_width), np.uint16), np.arange(len(ids))
        batch = Batch(ids, ends, positions, past, store, cache_rows, last, rope)
        threads = max(1, min(torch.get_num_threads(), len(ids) // MIN_ROWS_PER_THREAD))
        cuts, sharing = _split_rows(ends, threads), 1
        if cuts is None:
            cuts, sharing = [len(ids) * i // threads for i in range(threads + 1)], threads
        barrier = np.zeros(2, np.int64)
        try:
            parts = run_in_threads(threads, lambda i: self._run(batch, cuts[i], cuts[i + 1], sharing, barrier))
        except BaseException:  # an interruption: those who began need not wait for those who will not
            barrier[1] = 1
            raise
        return torch.from_numpy(np.concatenate(parts)), ends

    @torch.inference_mode()
    def _run(self, batch: Batch, first: int, end: int, threads: int, barrier: np.ndarray) -> np.ndarray:
        """A thread's share: some rows through all layers."""
        try:
            embedded = self.decoder.embed_tokens(batch.ids[first:end]).double()
            update = (embedded @ self.rotation).float().numpy()
            hidden = np.zeros((-(-(end - first) // ROWS) * ROWS, update.shape[1]), np.float32)
            past = batch.past
            count = forward(
                hidden,
                update,
                first,
                self.qkv,
                self.out,
                self.gate_up,
                self.down,
                self.bias,
                self.norms,
                self.shape,
                self.epsilon,
                batch.rope,
                batch.positions[first:end],
                batch.ends,
                past.rows,
                past.starts.numpy(),
                past.lengths.numpy(),
                batch.store,
                batch.cache_rows,
                batch.last,
                threads,
                barrier,
            )
        except BaseException:
            barrier[1] = 1  # nobody waits for who will not come
            raise
        return hidden[:count]

    def _rope(self, positions: int) -> np.ndarray:
        """Cosine and sine of each position: float32 (2, positions, head size / 2)."""
        cosine, sine = self.decoder.rotary_emb(torch.zeros(1), torch.arange(positions)[None])
        return torch.stack([cosine[0, :, : self.size // 2], sine[0, :, : self.size // 2]]).numpy()

    def _head(self, tokens: tuple[int, ...]) -> SharedPrefix:
        """Read by the LLM's own layers, a float32 copy of one at a time."""
        cache = DynamicCache()
        hidden = self.decoder.embed_tokens(torch.tensor([tokens])).float()
        turned = self.decoder.rotary_emb(hidden, torch.arange(len(tokens))[None])
        mask = torch.full((len(tokens), len(tokens)), torch.finfo(torch.float32).min).triu(1)[None, None]
        for layer in self.decoder.layers:
            exact = copy.deepcopy(layer).float()
            hidden = exact(hidden, attention_mask=mask, position_embeddings=turned, past_key_values=cache)
        hidden = copy.deepcopy(self.decoder.norm).float()(hidden)[0]
        within = orthogonal(self.size)
        both = [torch.stack([one.keys[0], one.values[0] @ within]) for one in cache.layers]  # type: ignore[union-attr,index]
        rows = torch.stack(both).permute(0, 3, 1, 2, 4).flatten(2).half().contiguous()
        return SharedPrefix(tokens, rows.numpy().view(np.uint16), hidden)


def _split_rows(ends: np.ndarray, threads: int) -> list[int] | None:
    """Where threads' rows begin and end, if whole texts can be shared out fairly: then no thread waits for another."""
    ideal = ends[-1] / threads
    cuts = [int(ends[np.abs(ends - ideal * i).argmin()]) for i in range(threads + 1)]
    shares = np.diff(cuts)
    return cuts if shares.min() > 0 and shares.max() <= MAX_IMBALANCE * ideal else None


def _batch_spans(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Neighbouring texts of at most ``budget`` tokens together, or one."""
    spans, start, total = [], 0, 0
    for i, length in enumerate(lengths):
        if total and total + length > budget:
            spans.append((start, i))
            start, total = i, 0
        total += length
    return [*spans, (start, len(lengths))]
