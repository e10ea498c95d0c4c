"""Texts that an instruct LLM writes: conversations in its chat template, completed in batches by nucleus sampling."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rabtriever.errors import InputError, first_line
from rabtriever.llm.loading import LoadedLLM

MAX_CHOICES = 64  # tokens that one is drawn from: sorting a whole vocabulary takes longer than the LLM

Messages = Sequence[dict[str, str]]
"""A conversation: dicts of ``role`` and ``content``; a system's message, a user's and so on."""


class Decoder(Protocol):
    """An LLM that reads prompts and then one token after the other."""

    def start(self, prompts: Sequence[Sequence[int]], n_shared: int, max_tokens: int) -> Tensor:
        """Reads prompts whose first ``n_shared`` tokens are the same; returns the next token's logits (n, V)."""

    def step(self, kept: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Leaves out all texts but ``kept``, appends a token to each and returns the next one's logits."""


class Writer:
    """Completes conversations.

    Args:
        llm: An LLM with a chat template.
        temperature: Of the softmax that tokens are drawn from.
        top_p: Share of its probability that they are drawn from.

    Raises:
        InputError: the LLM has no chat template.
    """

    def __init__(self, llm: LoadedLLM, temperature: float = 0.8, top_p: float = 0.95) -> None:
        if not llm.tokenizer.chat_template:
            raise InputError(f"{llm.source}: has no chat template, so it follows no instructions; give an instruct LLM")
        self.llm, self.temperature, self.top_p = llm, temperature, top_p
        self._decoder: Decoder | None = None

    def complete(
        self, conversations: Sequence[Messages], seeds: Sequence[int], max_lines: int, max_tokens: int
    ) -> list[str]:
        """Returns the answer to each conversation, drawn with a seed of its own whatever else is in the batch.

        Args:
            conversations: What they have in common at the beginning is read once.
            seeds: One of each.
            max_lines: Lines after which an answer ends.
            max_tokens: Tokens after which it ends. A line that they cut off has no newline, all others have one.
        """
        tokenizer, ends = self.llm.tokenizer, self._ends()
        prompts = [tokenizer(self._text(one), add_special_tokens=False)["input_ids"] for one in conversations]
        n_shared = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)
        self._decoder = decoder = self._decoder or _create_decoder(self.llm, prompts[0])
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        alive, answers, written = list(range(len(prompts))), [""] * len(prompts), [list[int]() for _ in prompts]
        logits = decoder.start(prompts, n_shared, max_tokens)
        for _ in range(max_tokens):
            drawn = self._draw(logits.float().cpu(), [generators[row] for row in alive])
            kept = []
            for place, (row, token) in enumerate(zip(alive, drawn, strict=True)):
                if token in ends:
                    answers[row] += "\n"
                    continue
                written[row].append(token)
                answers[row] = str(tokenizer.decode(written[row], skip_special_tokens=True))
                if answers[row].lstrip().count("\n") < max_lines:
                    kept.append(place)
            if not kept:
                break
            alive = [alive[place] for place in kept]
            logits = decoder.step(kept, [written[row][-1] for row in alive])
        return answers

    def _draw(self, logits: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
        """Draws a token by each row of logits float32 (n, V)."""
        best, ids = (logits / self.temperature).topk(min(MAX_CHOICES, logits.shape[1]), dim=1)
        shares = best.softmax(1)
        shares[shares.cumsum(1) - shares >= self.top_p] = 0
        rows = zip(shares, ids, generators, strict=True)
        return [int(choices[torch.multinomial(share, 1, generator=drawn)]) for share, choices, drawn in rows]

    def _ends(self) -> set[int]:
        configured: Any = getattr(self.llm.config, "eos_token_id", None)
        listed = configured if isinstance(configured, list) else [configured]
        return {token for token in [*listed, self.llm.tokenizer.eos_token_id] if token is not None}

    def _text(self, messages: Messages) -> str:
        from jinja2 import TemplateError

        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        system, first, *rest = messages
        for tried in (messages, [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]):
            try:
                return str(self.llm.tokenizer.apply_chat_template(list(tried), **options))
            except TemplateError as error:  # some LLMs know no system message
                fault = first_line(error)
        raise InputError(f"{self.llm.source}: its chat template fails ({fault}); give another LLM")


class TorchDecoder:
    """A :class:`Decoder` by transformers; padding stands between the shared beginning and the rest of a prompt."""

    def __init__(self, llm: LoadedLLM) -> None:
        self.model = llm.model

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], n_shared: int, max_tokens: int) -> Tensor:
        """See :class:`Decoder`."""
        from transformers import DynamicCache

        self.past = DynamicCache(config=self.model.config)
        if n_shared:
            self._forward(torch.tensor([prompts[0][:n_shared]]), torch.ones(1, n_shared, dtype=torch.long))
            self.past.batch_repeat_interleave(len(prompts))
        width = max(map(len, prompts))
        ids, mask = torch.zeros(2, len(prompts), width, dtype=torch.long)
        mask[:, :n_shared] = 1
        for row, prompt in enumerate(prompts):
            rest = len(prompt) - n_shared
            ids[row, width - rest :], mask[row, width - rest :] = torch.tensor(prompt[n_shared:]), 1
        return self._forward(ids[:, n_shared:], mask)

    @torch.inference_mode()
    def step(self, kept: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See :class:`Decoder`."""
        if len(kept) < len(self.mask):
            self.past.batch_select_indices(torch.tensor(kept, device=self.model.device))
        mask = torch.cat([self.mask[list(kept)], torch.ones(len(kept), 1, dtype=torch.long)], dim=1)
        return self._forward(torch.tensor(tokens)[:, None], mask)

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        on_device = [one.to(self.model.device) for one in (ids, mask, positions)]
        given = dict(zip(("input_ids", "attention_mask", "position_ids"), on_device, strict=True))
        self.mask = mask
        return self.model(**given, past_key_values=self.past, use_cache=True, logits_to_keep=1).logits[:, -1]


def _create_decoder(llm: LoadedLLM, prompt: Sequence[int]) -> Decoder:
    if llm.backend == "int8":
        from rabtriever.llm.int8.decoding import Int8Decoder

        return Int8Decoder(llm, prompt)
    return TorchDecoder(llm)
