"""Words that tell two texts apart, the rarest first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log

MAX_WORDS = 5
COMMON = 0.2  # a word of more than this share of the documents, or of the requests, tells nothing, such as `the`


def split_words(text: str) -> dict[str, str]:
    """Returns the words of a text in lower case, by what counts as the same word: without a plural's `s`.

    ``listPods`` and ``list_pods`` are two words each.
    """
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    words = (word.lower() for word in re.findall(r"[^\W_]+", parted))
    return {word[:-1] if len(word) > 3 and word.endswith("s") else word: word for word in words if len(word) > 1}


class TellingWords:
    """Weighs words by how few of a catalogue's texts and its requests have them."""

    def __init__(self, documents: Sequence[str], requests: Sequence[str]) -> None:
        self._n_texts, self._n_with, self._common = len(documents) + len(requests), Counter[str](), set[str]()
        for texts in (documents, requests):
            n_with = Counter(word for text in texts for word in split_words(text))
            self._n_with += n_with
            self._common |= {word for word, count in n_with.items() if count > max(2, COMMON * len(texts))}

    def only_in(self, text: str, others: Iterable[str]) -> list[str]:
        """Returns the words of a text that no other has."""
        return self.missing([text], others)

    def missing(self, requests: Sequence[str], texts: Iterable[str]) -> list[str]:
        """Returns the words of some requests that none of some texts has: those that are in many of them, and rare."""
        known = {word for text in texts for word in split_words(text)}
        found = [split_words(request) for request in requests]
        counts = Counter(word for words in found for word in words if word not in known)
        shown: Mapping[str, str] = {word: written for words in found for word, written in words.items()}
        rarity = {word: log((1 + self._n_texts) / (1 + self._n_with[word])) for word in counts}
        ranked = sorted(counts.keys() - self._common, key=lambda word: (-counts[word] * rarity[word], word))
        return [shown[word] for word in ranked[:MAX_WORDS]]
