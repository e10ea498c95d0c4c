"""Many pairs in blocks, each scored by one reranker and kept as one file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rabtriever.errors import InputError, TextError
from rabtriever.persistence.files import Folder
from rabtriever.persistence.vectors import file_name, write_vectors
from rabtriever.rerankers.base import Reranker, Side
from rabtriever.rerankers.remote.reranker import RemoteReranker
from rabtriever.rerankers.store import pair_key


class Outcome(NamedTuple):
    """What became of a block.

    Attributes:
        new: Pairs that are stored now.
        failed: Positions in the block of pairs that the reranker cannot read, each with the fault.
        masses: Sum and number of the probabilities that a server's answers were one of the choices.
        fault: Why it ended early, what was paid for being stored; nothing after it will go otherwise. Empty if not.
    """

    new: int = 0
    failed: Sequence[tuple[int, str]] = ()
    masses: tuple[float, int] = (0.0, 0)
    fault: str = ""


def distinct_pairs(queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray) -> np.ndarray:
    """Returns the pairs int64 (n, 2) whose texts differ, each of the first positions of its texts."""
    first_of = [_first_positions(queries), _first_positions(documents)]
    positions = np.stack([first_of[side][pairs[:, side]] for side in (0, 1)], axis=1)
    return np.unique(positions, axis=0)


def _first_positions(texts: Sequence[str]) -> np.ndarray:
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, i) for i, text in enumerate(texts)], np.int64)


def make_blocks(pairs: np.ndarray, group_by: Side, size: int) -> list[np.ndarray]:
    """Divides pairs int64 (n, 2) of (query, document) into blocks of at most ``size``.

    A block holds all pairs of its queries or documents, as ``group_by`` says, if one's fit into a block.
    """
    side = int(group_by == "document")
    pairs = pairs[np.lexsort((pairs[:, 1 - side], pairs[:, side]))]
    ends = [*(np.flatnonzero(np.diff(pairs[:, side])) + 1).tolist(), len(pairs)] if len(pairs) else []
    cuts, begin = [0], 0
    for end in ends:
        if end - cuts[-1] > size and begin > cuts[-1]:
            cuts.append(begin)
        while end - cuts[-1] > size:
            cuts.append(cuts[-1] + size)
        begin = end
    return [pairs[a:b] for a, b in zip(cuts, [*cuts[1:], len(pairs)], strict=True) if b > a]


def score_block(
    reranker: Reranker, uri: str, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray
) -> Outcome:
    """Scores a block's pairs int64 (n, 2) and writes them as a file, completely or not at all.

    A block whose file is there is not scored again.

    Args:
        reranker: Who scores.
        uri: Where files lie (:meth:`rabtriever.rerankers.store.ScoreStore.prepare`).
        queries: Texts.
        documents: Texts.
        pairs: Positions in them.

    Raises:
        StorageError: the file cannot be written.
        RemoteError: answers that were paid for are of no use.
    """
    keys = [pair_key(queries[q], documents[d]) for q, d in pairs.tolist()]
    if Folder(uri).exists(file_name(keys)):
        return Outcome()
    remote = reranker if isinstance(reranker, RemoteReranker) else None
    before, fault = remote.masses if remote else (0.0, 0), ""
    try:
        rows, vectors, failed = _score(reranker, queries, documents, pairs)
        after = remote.masses if remote else before
    except InputError as error:
        fault, after = str(error), remote.masses if remote else before  # reading the answers again counts them again
        read = [i for i, (q, d) in enumerate(pairs.tolist()) if remote and remote.is_answered(queries[q], documents[d])]
        rows, vectors, failed = _score(reranker, queries, documents, pairs[read])  # asks nothing
        rows = np.array(read, np.int64)[rows]
    if len(rows):
        write_vectors(Folder(uri), [keys[row] for row in rows], vectors)
    return Outcome(len(rows), failed, (after[0] - before[0], after[1] - before[1]), fault)


def readable(reranker: Reranker, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray) -> np.ndarray:
    """Returns the positions of those pairs int64 (n, 2) that a reranker can read."""
    return _score(reranker, queries, documents, pairs)[0]


def _score(
    reranker: Reranker, queries: Sequence[str], documents: Sequence[str], pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    """Returns positions of pairs that can be read, their vectors, and those that cannot, with the faults.

    What fails is halved until it is one pair: a reranker names a text, but another pair of it may be fine.
    """
    rows, vectors, failed = [np.empty(0, np.int64)], [], []
    waiting = [np.arange(len(pairs))] * (len(pairs) > 0)
    while waiting:
        part = waiting.pop()
        try:
            scores = reranker.score(queries, documents, pairs[part], with_states=reranker.has_states)
        except TextError as error:
            half = len(part) // 2
            if half:
                waiting += [part[half:], part[:half]]
            else:
                failed.append((int(part[0]), f"the {error.kind} {error.fault}"))
            continue
        log_odds = scores.log_odds[:, None]
        rows.append(part)
        vectors.append(log_odds if scores.states is None else np.concatenate([log_odds, scores.states], axis=1))
    return np.concatenate(rows), np.concatenate(vectors) if vectors else np.empty((0, 1), np.float32), failed
