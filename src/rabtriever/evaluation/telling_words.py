"""Words that tell two texts apart, the rarest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from math import log

from rabtriever.data.words import split_words, without_plural

MAX_WORDS = 5
COMMON = 0.1  # a word of more than this share of the requests, such as `the`, says nothing of one of them


def different_words(text: str) -> dict[str, str]:
    """Returns the words of a text, of more than one letter, by what counts as the same word: without a plural's s."""
    return {without_plural(word): word for word in split_words(text) if len(word) > 1}


class TellingWords:
    """Weighs words by how few of a catalogue's texts and its requests have them."""

    def __init__(self, documents: Sequence[str], requests: Sequence[str]) -> None:
        of_requests = Counter(word for text in requests for word in different_words(text))
        self._n_with = of_requests + Counter(word for text in documents for word in different_words(text))
        self._common = {word for word, count in of_requests.items() if count > max(2, COMMON * len(requests))}
        self._n_texts = len(documents) + len(requests)

    def only_in(self, text: str, other: str) -> list[str]:
        """Returns the words of a text that another lacks."""
        return self._rarest([different_words(text)], different_words(other).keys())

    def missing(self, requests: Sequence[str], texts: Iterable[str]) -> list[str]:
        """Returns the words of some requests that none of some texts has: those that are in many of them, and rare."""
        known = {word for text in texts for word in different_words(text)}
        return self._rarest([different_words(request) for request in requests], known | self._common)

    def _rarest(self, found: Sequence[Mapping[str, str]], known: Set[str]) -> list[str]:
        counts = Counter(word for words in found for word in words if word not in known)
        written = {word: text for words in found for word, text in words.items()}
        rarity = {word: log((1 + self._n_texts) / (1 + self._n_with[word])) for word in counts}
        ranked = sorted(counts, key=lambda word: (-counts[word] * rarity[word], word))
        return [written[word] for word in ranked[:MAX_WORDS]]
