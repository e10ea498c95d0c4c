"""Files by path or object-store URI, through Arrow's file systems."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

from rabtriever.persistence.folder import absolute_path

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileSystem


def normalized(source: str | Path) -> str:
    """Returns a local path, ``~`` and ``file://`` included, as an absolute one; another URI without a last slash."""
    text = str(source).removeprefix("file://")
    return text.rstrip("/") if "://" in text else str(absolute_path(text))


def filesystem(uri: str) -> tuple[FileSystem, str]:
    """Returns the file system of a path or URI, and the path in it.

    Of S3, keys, region and ``AWS_ENDPOINT_URL`` are read from the environment, as Lance does.

    Raises:
        ValueError, OSError: of no kind that Arrow knows, or it cannot be reached.
    """
    from pyarrow.fs import FileSystem, LocalFileSystem, S3FileSystem

    if "://" not in uri:
        return LocalFileSystem(), uri
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if not uri.startswith("s3://") or not endpoint:
        found: tuple[FileSystem, str] = FileSystem.from_uri(uri)
        return found
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    server = urlsplit(endpoint)
    return S3FileSystem(endpoint_override=server.netloc, scheme=server.scheme, region=region), uri[len("s3://") :]


class Folder:
    """Small files in a folder of any file system; a file is there whole or not at all.

    Args:
        uri: Path or URI; made with the first file.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._files, self._path = filesystem(uri)
        self._local = "://" not in uri

    def read(self, name: str) -> bytes | None:
        """Returns what a file holds; None if there is none."""
        try:
            with self._files.open_input_file(f"{self._path}/{name}") as file:
                held: bytes = file.read()
                return held
        except FileNotFoundError:
            return None

    @contextmanager
    def opened(self, name: str) -> Iterator[NativeFile]:
        """Opens a file to read slices of it."""
        with self._files.open_input_file(f"{self._path}/{name}") as file:
            yield file

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, over one of that name."""
        path = f"{self._path}/{name}"
        if not self._local:  # an object appears when it is complete
            with self._files.open_output_stream(path) as file:
                file.write(data)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(path).parent / f".{uuid4().hex}"
        unfinished.write_bytes(data)
        unfinished.replace(path)

    def names(self, folder: str) -> set[str]:
        """Returns the names of the files in a folder in it."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(f"{self._path}/{folder}", allow_not_found=True)
        found = (info for info in self._files.get_file_info(selector) if info.type == FileType.File)
        return {info.base_name for info in found if not info.base_name.startswith(".")}

    def remove(self, folder: str = "") -> None:
        """Removes a folder in it, or all of it; not there is no error."""
        with suppress(FileNotFoundError):
            self._files.delete_dir(f"{self._path}/{folder}".rstrip("/"))
