"""The shards' segments made by Ray tasks, and kept beside the index, so that a replica's start is no clustering.

In a folder they are where all replicas that see the folder look for them. In an object store they are uploaded under
``<URI>/segments``; a replica downloads its shard's into the cache of its machine.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rabtriever.cluster.running import run_tasks
from rabtriever.cluster.session import LOCAL, connected
from rabtriever.cluster.shards import Shard
from rabtriever.index.segments import META, Segments
from rabtriever.index.snapshot import KeyRange
from rabtriever.index.table import Table
from rabtriever.persistence.files import Folder
from rabtriever.persistence.folder import normalized_uri
from rabtriever.persistence.object_store import is_uri
from rabtriever.persistence.storage import download, upload


def build_segments(uri: str, shards: int, precision: str = "int8", address: str = LOCAL) -> list[dict[str, Any]]:
    """Makes the segments of all shards, each in a task of its own, and stores them where replicas find them.

    Args:
        uri: The index; a folder must be one that all nodes see.
        shards: Into how many it is divided.
        precision: Number format of the scan.
        address: The Ray cluster, as of :func:`rabtriever.cluster.session.connected`.

    Returns:
        ``documents`` and ``segment_bytes`` of each shard.

    Raises:
        NotFoundError, CorruptIndexError: as of :meth:`rabtriever.Index.open`.
        InputError: no cluster there.
        StorageError: a segment cannot be written.
    """
    uri = normalized_uri(uri)
    Table.open(uri)
    with connected(address):
        built = dict(run_tasks(partial(_build_one, uri, shards, precision), range(shards), shards))
    return [built[number] for number in range(shards)]


def fetch_segments(uri: str, number: int, count: int, precision: str = "int8") -> None:
    """Downloads a shard's segments from an object store into the cache, those that are not there yet."""
    if not is_uri(uri := normalized_uri(uri)):
        return
    segments = _segments(uri, number, count, precision)
    stored = _stored(segments)
    for name in _complete(stored):
        if not (segments.folder / name).exists():
            download(f"{stored.uri}/{name}", segments.folder / name)


def _build_one(uri: str, count: int, precision: str, number: int) -> tuple[int, dict[str, Any]]:
    return number, _build(uri, number, count, precision)


def _build(uri: str, number: int, count: int, precision: str) -> dict[str, Any]:
    fetch_segments(uri, number, count, precision)
    shard = Shard(uri, number, count, precision)
    documents = len(shard)
    segments = _segments(uri, number, count, precision)
    if is_uri(uri):
        _upload(segments)
    return {"documents": documents, "segment_bytes": segments.info()["segment_bytes"]}


def _upload(segments: Segments) -> None:
    """Makes the store's segments those of the cache."""
    stored = _stored(segments)
    there = _complete(stored)
    here = {segment.folder.name: segment.folder for segment in segments.load()}
    for name in here.keys() - there:
        upload(here[name], f"{stored.uri}/{name}", last=(META,))
    for name in there - here.keys():
        stored.remove(name)


def _segments(uri: str, number: int, count: int, precision: str) -> Segments:
    model = Table.open(uri).model
    return Segments(uri, model.fingerprint, model.layout, precision, part=KeyRange(number, count).name)


def _stored(segments: Segments) -> Folder:
    """Returns where the object store of the index has its segments."""
    return Folder(f"{segments.uri}/segments/{segments.name}")


def _complete(stored: Folder) -> set[str]:
    """Returns the names of whole segments: a description, which is uploaded last, is in them."""
    return {name for name in stored.names() if stored.exists(f"{name}/{META}")}
