"""What is known of tools without a model: their names, and BM25 over their texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from rabtriever.caching import LRUCache
from rabtriever.data.words import split_words, words
from rabtriever.mcp.catalogue import Tool

K1, B = 1.2, 0.75
NAME = re.compile(r"[^\s\"'`,;!?()\[\]{}]+")  # what a name can be within a request
COUNTED_WORDS = 2**22  # different words of all texts that stay counted in memory


class Words:
    """An index of names and texts, made anew when tools change; searches are for one thread at a time."""

    def __init__(self) -> None:
        self.tools: Mapping[str, Tool] = {}
        self._counts: LRUCache[str, Counter[str]] = LRUCache(COUNTED_WORDS)
        self._ids: list[str] = []
        self._terms: dict[str, int] = {}
        self._update()

    def use(self, tools: Mapping[str, Tool]) -> None:
        """Takes the tools that searches shall find."""
        if tools is self.tools:
            return
        texts_differ = tools.keys() != self.tools.keys() or any(
            tools[id].fields is not tool.fields for id, tool in self.tools.items()
        )
        self.tools = tools
        if texts_differ:
            self._update()

    def named(self, request: str) -> list[str]:
        """Returns the ids of the tools that a request is, or holds, the name of.

        First those whose id is written so, then those whose own name is, of any server; then both in other spellings. A
        title counts last, and only if it is the whole request: a server may call its tool like another's.

        A word within a request counts as a name if it looks like one: with ``_``, ``.``, ``-``, ``/`` or a capital
        inside.
        """
        inside = [word.strip(".:-") for word in NAME.findall(request)]
        names = [request.strip(), *(word for word in inside if re.search(r"\w[_.\-/]\w|[a-z][A-Z]", word))]
        found = [id for by_name in self._exactly for name in names for id in by_name.get(name, [])]
        found += [id for by_name in self._alike for name in names for id in by_name.get(_key(name), [])]
        return list(dict.fromkeys(found + self._by_title.get(_key(request), [])))

    def ranked(self, request: str) -> list[str]:
        """Returns the ids of all tools that share a word with a request, by BM25, best first; ties as they came."""
        scores = np.zeros(len(self._ids), np.float32)
        for word, count in Counter(words(request)).items():
            if (term := self._terms.get(word)) is not None:
                part = slice(self._starts[term], self._starts[term + 1])
                scores[self._rows[part]] += count * self._weights[part]
        order = np.argsort(-scores, kind="stable")
        return [self._ids[row] for row in order[: int((scores > 0).sum())].tolist()]

    def _update(self) -> None:
        tools = self.tools.values()
        self._ids = list(self.tools)
        self._exactly = _ids_by((tool.id, tool.id) for tool in tools), _ids_by((tool.name, tool.id) for tool in tools)
        self._alike = tuple(
            _ids_by((_key(name), id) for name, ids in by_name.items() for id in ids) for by_name in self._exactly
        )
        self._by_title = _ids_by((_key(tool.document.title), tool.id) for tool in tools)
        counts = [self._count(f"{tool.name} {tool.document.content}") for tool in tools]
        self._terms = {term: number for number, term in enumerate(dict.fromkeys(_chain(counts)))}
        n, lengths = len(counts), np.array([one.total() for one in counts], np.float32)
        terms = np.array([self._terms[term] for one in counts for term in one], np.int64)
        rows = np.repeat(np.arange(n), [len(one) for one in counts])
        often = np.array([count for one in counts for count in one.values()], np.float32)
        in_documents = np.bincount(terms, minlength=len(self._terms))
        rarity = np.log(1 + (n - in_documents + 0.5) / (in_documents + 0.5))
        longer = 1 - B + B * lengths / max(1.0, float(lengths.mean()) if n else 1.0)
        weights = rarity[terms] * often * (K1 + 1) / (often + K1 * longer[rows])
        order = np.argsort(terms, kind="stable")
        self._rows, self._weights = rows[order], weights[order].astype(np.float32)
        self._starts = np.concatenate([[0], np.cumsum(in_documents)]).tolist()

    def _count(self, text: str) -> Counter[str]:
        found = self._counts.get(text)
        if found is None:
            found = Counter(words(text))
            self._counts.put(text, found, len(found) + 1)
        return found


def _ids_by(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Returns the second of pairs by the first; a blank first counts for none."""
    found: dict[str, list[str]] = {}
    for name, id in pairs:
        if name:
            found.setdefault(name, []).append(id)
    return found


def _key(name: str) -> str:
    """Returns a name in one spelling: create_issue, create-issue, createIssue and "create issue" are one."""
    return " ".join(split_words(name.replace("%2E", ".")))


def _chain(counts: Iterable[Counter[str]]) -> Iterable[str]:
    for one in counts:
        yield from one
