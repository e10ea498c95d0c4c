"""Object stores: what a URI names is fetched into the cache folder, and written there before it is uploaded.

The environment says where a store is and who asks; these variables count for Lance's tables and for all else:
``AWS_ENDPOINT_URL`` (of a server that is not AWS's), ``AWS_REGION``, ``AWS_ACCESS_KEY_ID`` and
``AWS_SECRET_ACCESS_KEY``, or ``AWS_PROFILE``, or ``AWS_SKIP_SIGNATURE=true`` (a public bucket);
``GOOGLE_APPLICATION_CREDENTIALS``; ``AZURE_STORAGE_ACCOUNT_NAME`` and ``AZURE_STORAGE_ACCOUNT_KEY``.
"""

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
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from rabtriever.caching import cache_dir, remove_stale
from rabtriever.errors import ConflictError, InputError, NotFoundError, StorageError, first_line
from rabtriever.progress import notice

if TYPE_CHECKING:
    from pyarrow import fs

SCHEMES = ("s3://", "gs://", "az://")
LOCAL = ("", "file", "file-object-store")  # schemes of this machine's files; the last is Lance's
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")  # the first that is set
TRANSFERS = 16  # files at a time
ATTEMPTS, CONNECT_SECONDS, REQUEST_SECONDS, RETRY_SECONDS = 3, 5, 30, 10
BLOCK = 2**22  # bytes
TOLD_BYTES = 2**24  # from which on a download is told on stderr
SOURCE = "source"  # the file beside the copies of a URI that says which
STALE_AFTER_SECONDS = 7 * 24 * 3600  # age at which the copy of objects that have changed since is removed

# What the libraries' messages hold -> what to do.
REMEDIES = {
    ("nosuchbucket", "no_such_bucket"): "make the bucket, or correct its name",
    (
        "access denied",
        "access_denied",
        "forbidden",
        "permission",
        "authenti",
        "signature",
        "access_key",
        "credential",
        "oauth",
    ): ("check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the store's) and what they allow"),
    ("network_connection", "connect", "resolve", "timeout", "timed out"): (
        "check the network and the endpoint (AWS_ENDPOINT_URL)"
    ),
}


def is_uri(path: str | Path) -> bool:
    """Returns whether a path is in an object store."""
    return str(path).startswith(SCHEMES)


def storage_options(uri: str) -> dict[str, str]:
    """Returns the options with which Lance reads the same store as everything else does."""
    endpoint = _endpoint() if uri.startswith("s3://") else None
    if endpoint is None:
        return {}
    plain = {"allow_http": "true"} if endpoint.startswith("http://") else {}
    return {"aws_endpoint": endpoint, "aws_region": _region() or "us-east-1", **plain}


def require_reachable(uri: str) -> None:
    """Raises StorageError if the bucket does not exist, or the store cannot be reached or refuses."""
    with store_errors(uri):
        store, path = filesystem(uri)
        if not _is_absent(store, path):
            return
        bucket = path.split("/")[0]
        with suppress(OSError):  # who may not look at the bucket may still use what is in it
            if _is_absent(store, bucket):
                raise StorageError(f"{uri}: cannot be used (no such bucket {bucket!r}); make it, or correct the name")


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
        fault = f"{uri}: its copy {copy} cannot be written ({error.strerror or error})"
        raise StorageError(f"{fault}; make room, or set RABTRIEVER_CACHE") from error
    remove_stale((other for other in place.iterdir() if other.is_dir() and other != copy.parent), STALE_AFTER_SECONDS)
    return copy


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


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turns a store's errors into :class:`StorageError`, one line with what to do."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        text = re.sub("'[^']*'", "", str(error)).lower()  # without names of buckets and objects
        known = (remedy for words, remedy in REMEDIES.items() if any(word in text for word in words))
        remedy = next(known, "check the URI, the credentials and the endpoint")
        raise StorageError(f"{uri}: cannot be used ({first_line(error)}); {remedy}") from error


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Returns a store and the path of ``uri`` in it, which begins with the bucket; of a path this machine's files.

    Raises:
        InputError: the URI names no place.
        OSError: the store cannot be reached.
    """
    from pyarrow import fs

    scheme, _, path = uri.rpartition("://")
    if scheme in LOCAL:
        return fs.LocalFileSystem(), path
    if not is_uri(uri):
        raise InputError(f"{uri}: no kind of store that is known; write {', '.join(SCHEMES)} or a path")
    path = path.strip("/")
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        raise InputError(f"{uri}: no place in an object store; write {scheme}://BUCKET/NAME")
    if scheme == "s3":
        return fs.S3FileSystem(**_s3_options(path.split("/")[0])), path
    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=RETRY_SECONDS)), path
    account, key = (os.environ.get(f"AZURE_STORAGE_ACCOUNT_{name}") for name in ("NAME", "KEY"))
    if not account:
        raise InputError(f"{uri}: no account is named; set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY")
    return fs.AzureFileSystem(account, account_key=key), path


def _s3_options(bucket: str) -> dict[str, Any]:
    from pyarrow import fs

    options: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "request_timeout": REQUEST_SECONDS}
    options["retry_strategy"] = fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    options["anonymous"] = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")
    endpoint, region = _endpoint(), _region()
    if endpoint:
        options["endpoint_override"] = endpoint
    options["region"] = region or ("us-east-1" if endpoint else fs.resolve_s3_region(bucket))
    return options


def _endpoint() -> str | None:
    return next((value for name in ENDPOINTS if (value := os.environ.get(name))), None)


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _is_absent(store: fs.FileSystem, path: str) -> bool:
    from pyarrow import fs

    return bool(store.get_file_info(path).type == fs.FileType.NotFound)


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
    size = sum(info.size for info in found.values())
    if size >= TOLD_BYTES:
        notice(f"{uri}: fetching {size / 1e6:.0f} MB into {copy.parent}")
    if any(part in ("", ".", "..") for name in found if name for part in name.split("/")):
        raise InputError(f"{uri}: an object below it has a name that no file can have; rename or remove it")
    with tempfile.TemporaryDirectory(dir=copy.parents[1], prefix=".") as temporary:
        place = Path(temporary) / "copy" / copy.name

        def get(name: str) -> None:
            file = place / name if name else place
            file.parent.mkdir(parents=True, exist_ok=True)
            with store_errors(uri):
                source = store.open_input_stream(found[name].path)
            with source, file.open("wb") as target:
                while block := _read(uri, source):
                    target.write(block)

        _each(get, sorted(found))
        with store_errors(uri):
            if _version(_list(store, path)) != copy.parent.name:
                raise StorageError(f"{uri}: it was changed while it was fetched; run it again")
        os.replace(place.parent, copy.parent)
        os.utime(copy.parent, (time.time(), time.time()))


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
