"""README and the pages of docs/, as their tests read them: fenced blocks, and the commands in those or indented."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if not p.name.endswith(".head.md"))]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>.+?) -->\n)?^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
COMMAND = re.compile(r"^ *(?:\$ )?(rabtriever (?:[^\\\n]|\\\n)+)", re.MULTILINE)
INDENTED = re.compile(r"^    .+\n?", re.MULTILINE)
ENDS = {"|", "||", "&&", "&", ";", ">", ">>", "2>", "<"}


class Block(NamedTuple):
    """A fenced block of a page; ``why`` says why it cannot be run, as the page's comment before it does."""

    language: str
    code: str
    line: int
    why: str | None


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        found.append(Block(match["language"], code, text[: match.start("language")].count("\n") + 1, match["why"]))
    return [block for block in found if block.language == language]


def commands(page: Path) -> list[list[str]]:
    """The arguments of every line of code that starts with ``rabtriever``, without a synopsis's brackets and dots."""
    code = [block.code for language in ("bash", "console") for block in blocks(page, language)]
    code += INDENTED.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    return [arguments(match[1]) for match in COMMAND.finditer("\n".join(code))]


def arguments(line: str) -> list[str]:
    words = shlex.split(line.replace("\\\n", " "), comments=True)
    end = next((at for at, word in enumerate(words) if word in ENDS), len(words))
    plain = (word.lstrip("[").rstrip("]") for word in words[1:end])
    return [word for word in plain if word and word != "..."]
