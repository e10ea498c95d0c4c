"""Small files in a folder or in object storage: listed, read, and written completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from rabtriever.errors import InputError, StorageError, first_line
from rabtriever.persistence.folder import absolute_path, normalized_uri
from rabtriever.persistence.object_store import filesystem, is_uri, store_errors

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileSystem

PARTIAL = ".partial"  # ends the name of a file that is being written; no listing shows it


class Folder:
    """A folder's files; of the folders in it, the names are ``inner/name``.

    Each method raises StorageError where the folder cannot be read or written.

    Args:
        uri: Path or URI; made with the first file.
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = normalized_uri(uri).rstrip("/")

    @cached_property
    def _place(self) -> tuple[FileSystem, str]:
        return filesystem(self.uri)

    def names(self, inner: str = "") -> list[str]:
        """Returns the names of the files and folders in it, or in a folder in it, sorted; none where nothing is."""
        from pyarrow.fs import FileSelector

        with self._errors():
            files, path = self._place
            found = files.get_file_info(FileSelector(f"{path}/{inner}".rstrip("/"), allow_not_found=True))
        return sorted(info.base_name for info in found if not info.base_name.endswith(PARTIAL))

    def exists(self, name: str) -> bool:
        """Returns whether there is a file of this name."""
        with self._errors():
            files, path = self._place
            return bool(files.get_file_info(f"{path}/{name}").is_file)

    def read(self, name: str) -> bytes | None:
        """Returns what a file holds; None if there is none."""
        with self._errors():
            try:
                with self.opened(name) as file:
                    held: bytes = file.read()
                    return held
            except FileNotFoundError:
                return None

    @contextmanager
    def opened(self, name: str) -> Iterator[NativeFile]:
        """Opens a file, of which parts can be read; raises OSError."""
        files, path = self._place
        with files.open_input_file(f"{path}/{name}") as file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, in the place of one of this name; readers see all of it or nothing."""
        with self._errors():
            files, path = self._place
            if is_uri(self.uri):  # an object appears when all of it has arrived
                with files.open_output_stream(f"{path}/{name}") as stream:
                    stream.write(content)
                return
            temporary = Path(path, f"{name}.{uuid4().hex}{PARTIAL}")
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(content)
                temporary.replace(Path(path, name))
            finally:
                temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Removes a file, if it is there."""
        with self._errors(), suppress(FileNotFoundError):
            files, path = self._place
            files.delete_file(f"{path}/{name}")

    def remove(self, inner: str = "") -> None:
        """Removes a folder in it, or all of it, if it is there."""
        with self._errors(), suppress(FileNotFoundError):
            files, path = self._place
            files.delete_dir(f"{path}/{inner}".rstrip("/"))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        if is_uri(self.uri):
            with store_errors(self.uri):
                yield
            return
        try:
            yield
        except InputError:
            raise
        except OSError as error:
            remedy = "make room, or change its permissions"
            raise StorageError(f"{self.uri}: cannot be read or written ({first_line(error)}); {remedy}") from error


def is_file(path: str | Path) -> bool:
    """Returns whether a path or URI is a file's; raises StorageError if a store cannot be read."""
    if not is_uri(path):
        return absolute_path(path).is_file()
    folder, _, name = str(path).rpartition("/")
    return Folder(folder).exists(name)


def read_file(path: str | Path) -> bytes:
    """Returns what a file holds. Of an object store nothing is copied to this machine: it may be a secret.

    Raises:
        OSError: there is no such file, or it cannot be read.
        StorageError: the store cannot be reached or refuses.
    """
    if not is_uri(path):
        return absolute_path(path).read_bytes()
    folder, _, name = str(path).rpartition("/")
    if (content := Folder(folder).read(name)) is None:
        raise FileNotFoundError(f"no such object {path}")
    return content
