"""How large texts are, and how many of them are read at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SLICE = 256  # tokens that a rerank reads before others have their turn


@dataclass
class TokenCounts:
    """Some texts' sizes.

    Attributes:
        lengths: Tokens of each, before it is cut.
        budget: What the prompt leaves each.
    """

    lengths: list[int]
    budget: int

    @property
    def kept(self) -> list[int]:
        """Tokens that are read of each."""
        return [min(length, self.budget) for length in self.lengths]

    @property
    def cut(self) -> int:
        """How many were cut."""
        return sum(length > self.budget for length in self.lengths)


def slices(texts: Sequence[str], sizes: Sequence[int]) -> Iterator[list[str]]:
    """Neighbouring texts of at most ``SLICE`` tokens together, or one."""
    piece: list[str] = []
    total = 0
    for text, size in zip(texts, sizes, strict=True):
        if piece and total + size > SLICE:
            yield piece
            piece, total = [], 0
        piece.append(text)
        total += size
    if piece:
        yield piece
