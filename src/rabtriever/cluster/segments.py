"""The shards' segments made by Ray tasks, and kept beside the index, so that a replica's start is no clustering.

In a folder they are where all replicas that see the folder look for them. In an object store they are uploaded under
``<URI>/segments``; a replica downloads its shard's into the cache of its machine.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rabtriever.cluster.running import run_tasks
from rabtriever.cluster.session import LOCAL, connected
from rabtriever.cluster.shards import Shard
from rabtriever.index.segments import META, Segments
from rabtriever.index.snapshot import KeyRange
from rabtriever.index.table import Table
from rabtriever.persistence.folder import normalized_uri
from rabtriever.persistence.storage import filesystem


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
    if "://" not in (uri := normalized_uri(uri)):
        return
    segments = _segments(uri, number, count, precision)
    store, folder = _store(segments)
    for path in _segment_folders(store, folder):
        target = segments.folder / path.rpartition("/")[2]
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
            Path(temporary, "segment").mkdir()
            _copy(path, f"{temporary}/segment", source=store)
            with suppress(OSError):  # another replica was faster
                Path(temporary, "segment").rename(target)


def _build_one(uri: str, count: int, precision: str, number: int) -> tuple[int, dict[str, Any]]:
    return number, _build(uri, number, count, precision)


def _build(uri: str, number: int, count: int, precision: str) -> dict[str, Any]:
    fetch_segments(uri, number, count, precision)
    shard = Shard(uri, number, count, precision)
    documents = len(shard)
    segments = _segments(uri, number, count, precision)
    if "://" in uri:
        _upload(segments)
    return {"documents": documents, "segment_bytes": segments.info()["segment_bytes"]}


def _upload(segments: Segments) -> None:
    """Makes the store's segments those of the cache; a segment's description, without which it is none, comes last."""
    store, folder = _store(segments)
    there = {path.rpartition("/")[2]: path for path in _segment_folders(store, folder)}
    here = {segment.folder.name: segment.folder for segment in segments.load()}
    for name in here.keys() - there.keys():
        store.create_dir(f"{folder}/{name}")
        for path in sorted(here[name].iterdir(), key=lambda path: path.name == META):
            _copy_file(path, f"{folder}/{name}/{path.name}", store)
    for name in there.keys() - here.keys():
        store.delete_dir(there[name])


def _segments(uri: str, number: int, count: int, precision: str) -> Segments:
    model = Table.open(uri).model
    return Segments(uri, model.fingerprint, model.layout, precision, part=KeyRange(number, count).name)


def _store(segments: Segments) -> tuple[Any, str]:
    """Returns the object store of the index, and the folder of its segments there."""
    store, path = filesystem(segments.uri)
    return store, f"{path.rstrip('/')}/segments/{segments.name}"


def _segment_folders(store: Any, folder: str) -> list[str]:  # noqa: ANN401 - pyarrow has no types
    from pyarrow.fs import FileSelector

    found = store.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    return sorted(info.path.rpartition("/")[0] for info in found if info.base_name == META)


def _copy(path: str, target: str, source: Any) -> None:  # noqa: ANN401
    from pyarrow.fs import LocalFileSystem, copy_files

    copy_files(path, target, source_filesystem=source, destination_filesystem=LocalFileSystem())


def _copy_file(path: Path, target: str, store: Any) -> None:  # noqa: ANN401
    with path.open("rb") as source, store.open_output_stream(target) as sink:
        shutil.copyfileobj(source, sink, 2**22)
