"""Small files in a folder or in object storage: listed, read, and written completely or not at all.

A place is a folder's path or a URI that Arrow knows, such as ``s3://bucket/folder``. Credentials, region and endpoint
of S3 come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, ...).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from rabtriever.errors import StorageError, first_line
from rabtriever.persistence.folder import absolute_path

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileSystem

PARTIAL = ".partial"  # ends the name of a file that is being written; no listing shows it


def as_place(place: str | Path) -> str:
    """Returns what a place means wherever the process goes later."""
    text = str(place)
    return text.rstrip("/") if is_remote(text) else str(absolute_path(text.removeprefix("file://")))


def is_remote(place: str) -> bool:
    """Returns whether a place is no folder of this machine."""
    return "://" in place and not place.startswith("file://")


def names(place: str) -> list[str]:
    """Returns the names of the files and folders at a place, sorted; none where nothing is; raises StorageError."""
    from pyarrow.fs import FileSelector

    with _errors(place):
        system, path = _opened(place)
        found = system.get_file_info(FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if not info.base_name.endswith(PARTIAL))


def exists(place: str, name: str) -> bool:
    """Returns whether there is a file of this name; raises StorageError."""
    with _errors(place):
        system, path = _opened(place)
        return bool(system.get_file_info(f"{path}/{name}").is_file)


def open_file(place: str, name: str) -> NativeFile:
    """Opens a file, of which parts can be read; raises OSError."""
    system, path = _opened(place)
    return system.open_input_file(f"{path}/{name}")


def read(place: str, name: str) -> bytes:
    """Returns what is in a file; raises StorageError."""
    with _errors(f"{place}/{name}"), open_file(place, name) as file:
        content: bytes = file.read()
        return content


def write(place: str, name: str, content: bytes) -> None:
    """Writes a file, in the place of one of this name; readers see all of it or nothing; raises StorageError."""
    with _errors(place):
        system, path = _opened(place)
        if is_remote(place):  # an object appears when all of it has arrived
            with system.open_output_stream(f"{path}/{name}") as stream:
                stream.write(content)
            return
        temporary = Path(path, f"{name}.{uuid4().hex}{PARTIAL}")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(Path(path, name))
        finally:
            temporary.unlink(missing_ok=True)


@lru_cache(maxsize=256)
def _opened(place: str) -> tuple[FileSystem, str]:
    """Returns the file system of a place, and the place's path in it."""
    from pyarrow.fs import FileSystem

    found: tuple[FileSystem, str] = FileSystem.from_uri(place)
    return found


@contextmanager
def _errors(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        remedy = "check the path or URI, the permissions and, of object storage, the environment's credentials"
        raise StorageError(f"{place}: cannot be read or written ({first_line(error)}); {remedy}") from None
