"""What goes wrong, by kind: each is one line that names the input, the fault and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

MAX_SHOWN_TEXT = 80  # characters of a text in a message


class InputError(ValueError):
    """Bad input. The command line prints the line and exits with 2; the server answers 422.

    Args:
        message: One line that names the input, the fault and the remedy.
        param: Name of the wrong parameter, such as ``where``.
        position: Position of the wrong text in the list it came in.
    """

    def __init__(self, message: str, *, param: str | None = None, position: int | None = None) -> None:
        super().__init__(message)
        self.param, self.position = param, position


class TextError(InputError):
    """A text that cannot be encoded: a ``query`` or ``document``, its position in its list, its fault and remedy."""

    position: int

    def __init__(self, kind: str, position: int, text: object, fault: str) -> None:
        super().__init__(f"{kind} {position}: {shorten(text)} {fault}", position=position)
        self.kind, self.text, self.fault = kind, text, fault

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets it travel between processes: an exception is made again of its message alone."""
        return type(self), (self.kind, self.position, self.text, self.fault), self.__dict__

    def at(self, position: int) -> TextError:
        """Returns the error of the same text in another list."""
        return TextError(self.kind, position, self.text, self.fault)


class NotFoundError(InputError):
    """Something that was named does not exist: a document, a version, a model, an index."""


class ConflictError(InputError):
    """Something exists already: a document of this id, a folder."""


class BusyError(InputError):
    """Another writer is at work; the same call may succeed later."""


class StorageError(InputError):
    """A folder or table cannot be written: no space, no permission."""


class CorruptIndexError(InputError):
    """An index that cannot be read."""


class MissingExtraError(InputError, ImportError):
    """A library that an extra brings is not installed, or cannot be imported."""


class RemoteError(InputError):
    """What a server that was asked did: it cannot be reached, refuses, or answers with something else."""


def check_texts(kind: str, texts: Sequence[str], positions: Iterable[int] | None = None) -> None:
    """Raises TextError for the first text that no tokenizer takes: no string, a blank one, or half an emoji in it.

    Args:
        kind: ``query`` or ``document``.
        texts: Texts; a single string is an InputError.
        positions: Which of them are looked at; all if None.
    """
    if isinstance(texts, str):
        raise InputError(f"{kind}: expected a list of texts, got one string; wrap it in a list")
    for position in range(len(texts)) if positions is None else positions:
        text = texts[position]
        if not isinstance(text, str) or not text.strip():
            raise TextError(kind, position, text, "has no tokens; give it a non-blank text")
        if has_half_character(text):
            raise TextError(kind, position, text, "holds half of a surrogate pair; write the character whole")


def has_half_character(text: str) -> bool:
    """Returns whether a text holds half of a surrogate pair, as JavaScript's ``slice`` leaves of an emoji."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def first_line(error: BaseException) -> str:
    """Returns a library's error as one line of at most 200 characters and its type."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def shorten(text: object) -> str:
    """Returns a text in quotes, of a long one the beginning."""
    shown = repr(text)
    return shown if len(shown) <= MAX_SHOWN_TEXT else f"{shown[:MAX_SHOWN_TEXT]}...{shown[0]}"
