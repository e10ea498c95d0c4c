"""Object stores: where one is, who asks, and what its errors mean.

The environment says where a store is and who asks; these variables count for Lance's tables and for all else:
``AWS_ENDPOINT_URL`` (of a server that is not AWS's), ``AWS_REGION``, ``AWS_ACCESS_KEY_ID`` and
``AWS_SECRET_ACCESS_KEY``, or ``AWS_PROFILE``, or ``AWS_SKIP_SIGNATURE=true`` (a public bucket);
``GOOGLE_APPLICATION_CREDENTIALS``; ``AZURE_STORAGE_ACCOUNT_NAME`` and ``AZURE_STORAGE_ACCOUNT_KEY``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabtriever.errors import InputError, StorageError, first_line

if TYPE_CHECKING:
    from pyarrow import fs

FILE = "file://"
SCHEMES = ("s3://", "gs://", "az://")
LOCAL_SCHEMES = ("", "file", "file-object-store")  # schemes of this machine's files; the last is Lance's
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")  # the first that is set
ATTEMPTS, CONNECT_SECONDS, REQUEST_SECONDS, RETRY_SECONDS = 3, 5, 30, 10

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
    """Returns whether a path is in an object store that everything here can use."""
    return str(path).startswith(SCHEMES)


def is_remote(path: str | Path) -> bool:
    """Returns whether an index is at no path of this machine: in an object store, also one that Lance alone knows."""
    return "://" in str(path) and not str(path).startswith(FILE)


def storage_options(uri: str) -> dict[str, str]:
    """Returns the options with which Lance reads the same store as everything else does."""
    endpoint = _endpoint() if uri.startswith("s3://") else None
    if endpoint is None:
        return {}
    plain = {"allow_http": "true"} if endpoint.startswith("http://") else {}
    return {"aws_endpoint": endpoint, "aws_region": _region() or "us-east-1", **plain}


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
    if scheme in LOCAL_SCHEMES:
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


def require_reachable(uri: str) -> None:
    """Raises StorageError if the bucket does not exist, or the store cannot be reached or refuses."""
    with store_errors(uri):
        store, path = filesystem(uri)
        if not is_absent(store, path):
            return
        bucket = path.split("/")[0]
        with suppress(OSError):  # who may not look at the bucket may still use what is in it
            if is_absent(store, bucket):
                raise StorageError(f"{uri}: cannot be used (no such bucket {bucket!r}); make it, or correct the name")


def is_absent(store: fs.FileSystem, path: str) -> bool:
    """Returns whether nothing is at a path in a store, nor below it."""
    from pyarrow import fs

    return bool(store.get_file_info(path).type == fs.FileType.NotFound)
