"""What an LLM wrote, cleaned: its lines, and which of them are requests that teach something."""

from __future__ import annotations

import re
import unicodedata

from rabtriever.data import Document

MIN_CHARACTERS, MAX_CHARACTERS = 6, 250
MIN_WORD, STEM = 4, 5  # characters of a content word, and of its stem
FUNCTION_WORDS = frozenset(
    """
    about after again also always another anyone anything because been before being both cannot could does doing done
    down each else even ever every everything find from gets getting give goes going gone have having help here into
    just keep know like look made make many more most much must need never nobody none nothing only other over really
    same should some someone something still such sure take tell than that their them then there these they thing
    things this those thought time told under until upon used using very want wants what when where which while whose
    will with without would your yours
    """.split()
)
_NUMBERING = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])\s*")
_ENDING = re.compile(r"(?:ing|ed|ies|es|e|s|y)$")
_QUOTES = "\"'“”„‘’«»`*_ \t"


def parse_lines(answer: str) -> list[str]:
    """Returns the lines of an answer that a newline ends, without numbering and quotes; blank ones are left out."""
    lines = (_unquote(" ".join(_NUMBERING.sub("", line).split())) for line in answer.split("\n")[:-1])
    return [line for line in lines if line]


def why_unusable(text: str, document: Document, style: str) -> str | None:
    """Returns why a text is no good request for a document, in a few words; None if it is one."""
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS or not re.search(r"\w\W+\w", text):
        return "too short or too long"
    if text.endswith((":", ",")) or "\ufffd" in text or not text.isprintable():
        return "no whole sentence"
    title = normalize(document.title)
    if title and f" {title} " in f" {normalize(text)} ":
        return "repeats the document's name"
    if style == "situation" and content_words(text) & content_words(document.content):
        return "a situation that shares a word with the document"
    return None


def content_words(text: str) -> set[str]:
    """Returns the stems of a text's longer words, but for function words; a stem is what two words must share."""
    words = set(normalize(text).split()) - FUNCTION_WORDS
    return {_ENDING.sub("", word)[:STEM] for word in words if len(word) >= MIN_WORD}


def normalize(text: str) -> str:
    """Returns the words of a text in lower case, without punctuation: what two equal requests share."""
    text = re.sub("['’]", "", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.findall(r"\w+", text))


def _unquote(text: str) -> str:
    """Returns a text without quotes and emphasis around it; an apostrophe or a quote within it stays."""
    opened = text[:1] in _QUOTES
    return text.strip(_QUOTES) if opened else text.strip()
