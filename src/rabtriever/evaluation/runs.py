"""Rankings on disk: TREC runs, ``query Q0 document rank score tag``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rabtriever.data import Run
from rabtriever.errors import InputError
from rabtriever.persistence.folder import local_path
from rabtriever.persistence.object_store import is_uri
from rabtriever.persistence.storage import uploaded_file


@contextmanager
def run_file(path: str | Path, tag: str) -> Iterator[Callable[[str, Mapping[str, float]], None]]:
    """Opens a TREC run to write query by query: ranks from 1, scores at full precision.

    The file appears, in place of an existing one, once all is well.

    Args:
        path: File to write, or its URI.
        tag: Name of the system, without white space.

    Yields:
        Function that writes the scores of one query: ``write(query_id, {document id: score})``. It raises InputError if
        a score is not finite, or an id has white space in it, which the format cannot hold.
    """
    if is_uri(path):
        with uploaded_file(str(path)) as local, run_file(local, tag) as write:
            yield write
        return
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    tag = _word(tag, "tag")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            yield lambda query, scores: file.writelines(_lines(query, scores, tag))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_run(path: str | Path) -> Run:
    """Reads a TREC run as query id -> document id -> score; its rank column is ignored, as in trec_eval.

    Raises:
        InputError: the file is missing, or a line is malformed; the line number is named.
    """
    path = local_path(path)
    if not path.is_file():
        raise InputError(f"run {path} is missing: give a TREC run file")
    run: Run = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not (columns := line.split()):
                continue
            location = f"{path}, line {number}"
            if len(columns) != 6:
                raise InputError(f"{location}: {len(columns)} columns; a run has six: query Q0 document rank score tag")
            query, _, document, _, score, _ = columns
            scores = run.setdefault(query, {})
            if document in scores:
                raise InputError(f"{location}: document {document!r} is listed twice for query {query!r}: keep one")
            scores[document] = _finite(score, f"{location}: score {score!r}")
    return run


def sort_run(scores: Mapping[str, float]) -> list[str]:
    """Returns the document ids, best first; ties go to the greater id, as in trec_eval.

    Raises:
        InputError: a score is NaN or infinite.
    """
    for document, score in scores.items():
        _finite(score, f"the score of document {document!r} is {score}, which")
    return sorted(scores, key=lambda document: (scores[document], document), reverse=True)


def _lines(query: str, scores: Mapping[str, float], tag: str) -> Iterator[str]:
    query = _word(query, "query id")
    for rank, document in enumerate(sort_run(scores), start=1):
        yield f"{query} Q0 {_word(document, 'document id')} {rank} {float(scores[document])!r} {tag}\n"


def _word(value: str, what: str) -> str:
    if value.split() != [value]:
        raise InputError(f"{what} {value!r} cannot stand in a TREC run: rename it without white space")
    return value


def _finite(score: str | float, subject: str) -> float:
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{subject} is not a finite number: it cannot be ranked")
    return value
