"""What a URI names is fetched into the cache folder, and what is made is written there before it is uploaded."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from rabtriever.caching import cache_dir, remove_stale
from rabtriever.errors import ConflictError, InputError, NotFoundError, StorageError
from rabtriever.persistence.object_store import filesystem, require_reachable, store_errors
from rabtriever.progress import notice

if TYPE_CHECKING:
    from pyarrow import fs

TRANSFERS = 16  # files at a time
BLOCK = 2**22  # bytes
TOLD_BYTES = 2**24  # from which on a download is told on stderr
SOURCE = "source"  # the file beside the copies of a URI that says which
STALE_AFTER_SECONDS = 7 * 24 * 3600  # age at which the copy of objects that have changed since is removed


def exists(uri: str) -> bool:
    """Returns whether there is an object of that name, or one below it."""
    require_reachable(uri)
    with store_errors(uri):
        return bool(_list(*filesystem(uri)))


def require_absent(uri: str) -> None:
    """Raises ConflictError if something is there, StorageError as of :func:`require_reachable`."""
    if exists(uri):
        raise ConflictError(f"{uri}: exists already; give another URI or remove it")


def fetch(uri: str) -> Path:
    """Returns a copy, on this machine, of an object or of everything below a prefix.

    It is made once for all processes, and again when the names, sizes or times of the objects have changed.

    Raises:
        NotFoundError: there is nothing.
        StorageError: the store cannot be reached or refuses, or there is no room.
    """
    require_reachable(uri)
    uri = uri.rstrip("/")
    with store_errors(uri):
        store, path = filesystem(uri)
        found = _list(store, path)
    if not found:
        raise NotFoundError(f"{uri}: no such object, and none below it; correct the URI")
    place = _place("objects", uri)
    copy = place / _version(found) / path.rpartition("/")[2]
    if copy.exists():
        return copy
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".lock"):
            if not copy.exists():
                (place / SOURCE).write_text(uri, encoding="utf-8")
                _download(uri, store, path, found, copy)
    except OSError as error:
        raise _no_room(uri, copy, error) from error
    remove_stale((other for other in place.iterdir() if other.is_dir() and other != copy.parent), STALE_AFTER_SECONDS)
    return copy


def download(uri: str, folder: Path) -> None:
    """Makes a folder of all below a prefix, completely or not at all, unless another process does so first.

    Raises:
        StorageError: as of :func:`fetch`.
    """
    uri = uri.rstrip("/")
    with store_errors(uri):
        store, path = filesystem(uri)
        found = _list(store, path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
            _get(uri, store, found, Path(temporary) / "copy")
            try:
                os.rename(Path(temporary) / "copy", folder)
            except OSError:
                if not folder.exists():  # else another process was faster
                    raise
    except OSError as error:
        raise _no_room(uri, folder, error) from error


def origin(path: Path) -> str | None:
    """Returns the URI that a file or folder was fetched from; None if it was not."""
    with suppress(ValueError, OSError):
        place, _, *inner = path.relative_to(cache_dir() / "objects").parts
        source = (cache_dir() / "objects" / place / SOURCE).read_text(encoding="utf-8")
        return "/".join([source, *inner[1:]])
    return None


def upload(source: Path, uri: str, last: Sequence[str] = ()) -> None:
    """Uploads a file, or all that a folder holds; on an error, what was uploaded is removed again.

    Args:
        source: The file or folder.
        uri: Where to.
        last: Names of files in the folder by which others see that it is complete; they go last, in this order.

    Raises:
        StorageError: the store cannot be reached or refuses.
    """
    uri = uri.rstrip("/")
    files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    names = [name for name in sorted(files) if name not in last]
    done: list[str] = []
    with store_errors(uri):
        store, path = filesystem(uri)

        def send(name: str) -> None:
            done.append(name)
            _write(store, files[name], f"{path}/{name}")

        if source.is_file():
            return _write(store, source, path)
        try:
            _each(send, names)
            for name in last:
                if name in files:
                    send(name)
        except BaseException:
            for name in done:
                with suppress(OSError):
                    store.delete_file(f"{path}/{name}")
            raise
    return None


def working_place(uri: str) -> Path:
    """Returns where what is to become ``uri`` is kept until it is complete, the same whenever it is asked for."""
    place = _place("unfinished", uri.rstrip("/"))
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


@contextmanager
def uploaded_folder(uri: str, last: Sequence[str] = ()) -> Iterator[Path]:
    """Yields a temporary folder that is uploaded when all went well; where that fails, it stays and is named.

    Raises:
        ConflictError: something is at ``uri``.
        StorageError: the store cannot be reached or refuses.
    """
    require_absent(uri)
    place, keep = working_place(uri), False
    folder = Path(tempfile.mkdtemp(dir=place.parent, prefix=f"{place.name}-"))
    try:
        yield folder
        require_absent(uri)  # another process may have been faster
        try:
            upload(folder, uri, last)
        except StorageError as error:
            keep = True
            raise StorageError(f"{error}; what was to be uploaded is in {folder}") from error
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def uploaded_file(uri: str) -> Iterator[Path]:
    """Yields the path of a file to write, which is uploaded, in place of an existing one, when all went well."""
    require_reachable(uri)
    with tempfile.TemporaryDirectory() as folder:
        yield (file := Path(folder) / "file")
        upload(file, uri)


@contextmanager
def working_file(uri: str) -> Iterator[Path]:
    """Yields the path of a file to go on with, uploaded when all went well; else it stays for the next time."""
    place = working_place(uri)
    if not place.exists() and exists(uri):
        shutil.copy(fetch(uri), place)
    yield place
    upload(place, uri)
    place.unlink()


def is_for_upload(folder: Path) -> bool:
    """Returns whether a folder is what :func:`uploaded_folder` yielded."""
    return folder.is_relative_to(cache_dir() / "unfinished")


def with_uris(message: str) -> str:
    """Returns a message with the URIs of what was fetched instead of the paths of the copies."""
    for copy in set(re.findall(re.escape(f"{cache_dir() / 'objects'}/") + "[0-9a-f]{16}/[0-9a-f]{16}/", message)):
        if source := origin(Path(copy) / "name"):
            message = message.replace(copy + source.rpartition("/")[2], source)
    return message


def _list(store: fs.FileSystem, path: str) -> dict[str, fs.FileInfo]:
    """Returns the object at a path as ``""``, or those below it by what follows the path."""
    from pyarrow import fs

    itself = store.get_file_info(path)
    if itself.type == fs.FileType.File:
        return {"": itself}
    found = store.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path[len(path) + 1 :]: info for info in found if info.type == fs.FileType.File}


def _version(found: dict[str, fs.FileInfo]) -> str:
    described = sorted((name, info.size, info.mtime_ns) for name, info in found.items())
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def _place(kind: str, uri: str) -> Path:
    return cache_dir() / kind / hashlib.sha256(uri.encode()).hexdigest()[:16]


def _download(uri: str, store: fs.FileSystem, path: str, found: dict[str, fs.FileInfo], copy: Path) -> None:
    """Writes the copy, completely or not at all."""
    with tempfile.TemporaryDirectory(dir=copy.parents[1], prefix=".") as temporary:
        place = Path(temporary) / "copy"
        _get(uri, store, found, place / copy.name)
        with store_errors(uri):
            if _version(_list(store, path)) != copy.parent.name:
                raise StorageError(f"{uri}: it was changed while it was fetched; run it again")
        os.replace(place, copy.parent)
        os.utime(copy.parent, (time.time(), time.time()))


def _get(uri: str, store: fs.FileSystem, found: dict[str, fs.FileInfo], place: Path) -> None:
    """Copies objects that were listed to a file, or into a folder, that is not there yet."""
    size = sum(info.size for info in found.values())
    if size >= TOLD_BYTES:
        notice(f"{uri}: fetching {size / 1e6:.0f} MB into the cache folder")
    if any(part in ("", ".", "..") for name in found if name for part in name.split("/")):
        raise InputError(f"{uri}: an object below it has a name that no file can have; rename or remove it")

    def get(name: str) -> None:
        file = place / name if name else place
        file.parent.mkdir(parents=True, exist_ok=True)
        with store_errors(uri):
            source = store.open_input_stream(found[name].path)
        with source, file.open("wb") as target:
            while block := _read(uri, source):
                target.write(block)

    _each(get, sorted(found))


def _no_room(uri: str, copy: Path, error: OSError) -> StorageError:
    fault = f"{uri}: its copy {copy} cannot be written ({error.strerror or error})"
    return StorageError(f"{fault}; make room, or set RABTRIEVER_CACHE")


def _read(uri: str, source: Any) -> bytes:  # noqa: ANN401
    with store_errors(uri):
        block: bytes = source.read(BLOCK)
    return block


def _write(store: fs.FileSystem, file: Path, path: str) -> None:
    with file.open("rb") as source, store.open_output_stream(path) as target:
        shutil.copyfileobj(source, target, BLOCK)


def _each(action: Any, names: Sequence[str]) -> None:  # noqa: ANN401
    """Does something for each name, several at a time; raises the first error once those that run have ended."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        futures = [pool.submit(partial(action, name)) for name in names]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
