"""Requests that an LLM writes: the file, going on where it stopped, and what is left out."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rabtriever.data import Document, load_requests
from rabtriever.errors import InputError, StorageError
from rabtriever.llm.loading import load_llm
from rabtriever.training import generate
from rabtriever.training.generate import generate_requests
from rabtriever.training.generated_text import content_words, parse_lines, why_unusable
from rabtriever.training.generation_prompts import EXAMPLES, INSTRUCTIONS, LINES, conversation

DOCUMENTS = [
    Document("lamp", "gives light in a room", "Lamp"),
    Document("rope", "ties things together"),
    Document("horn", "sounds loud"),
]


class Script:
    """Writes five numbered lines by seed, and remembers what it was asked."""

    calls: list[list[str]] = []

    def __init__(self, llm: object) -> None:
        Script.calls.clear()

    def complete(self, conversations: Any, seeds: Any, max_lines: int, max_tokens: int) -> list[str]:
        Script.calls.append([messages[-1]["content"] for messages in conversations])
        return [
            "\n".join(f"{i}. my case no {seed % 10**6} {i}" for i in range(1, max_lines + 1)) + "\n" for seed in seeds
        ]


@pytest.fixture(autouse=True)
def _script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "Writer", Script)
    monkeypatch.setattr(generate, "BLOCK", 2)


def write(path: Path, n: int = 5, **options: Any) -> int:
    return generate_requests(DOCUMENTS, None, path, n, **options)  # type: ignore[arg-type]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_document_gets_n_marked_requests_most_of_them_situations(tmp_path: Path) -> None:
    path = tmp_path / "new" / "requests.jsonl"
    assert write(path) == 15
    rows = read(path)
    assert len({row["text"] for row in rows}) == 15
    for document in DOCUMENTS:
        own = [row for row in rows if row["metadata"]["document"] == document.id]
        assert sorted(row["_id"] for row in own) == [f"generated-{document.id}-{i}" for i in range(1, 6)]
        assert Counter(row["metadata"]["style"] for row in own) == {"situation": 3, "command": 1, "question": 1}
        assert all(row["metadata"]["generated"] is True for row in own)
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"_id": d.id, "text": d.text}) + "\n" for d in DOCUMENTS))
    data = load_requests(tmp_path, path)
    assert list(data.queries.values()) == [row["text"] for row in rows] and data.generated == data.queries.keys()


def test_an_interrupted_call_goes_on_and_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "requests.jsonl"
    write(whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:10]) + lines[10][:25])  # killed while the second block was written
    assert write(path) == 5
    assert path.read_bytes() == whole.read_bytes()
    assert len({text for call in Script.calls for text in call}) == 1  # nobody else was asked for again
    assert write(path) == 0 and path.read_bytes() == whole.read_bytes()


def test_a_file_that_was_edited_is_filled_up(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    write(path)
    rows = read(path)
    mine = json.dumps({"text": "one of my own"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]) + mine)  # no line's end
    assert write(path) == 1 and write(path, 6) == 3
    texts = [row["text"] for row in read(path)]
    assert "one of my own" in texts and len(set(texts)) == len(texts) == 19
    assert len({row.get("_id") for row in read(path)}) == 19


def test_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b and not {row["text"] for row in read(tmp_path / "a")} & {row["text"] for row in read(tmp_path / "c")}


def test_what_cleaning_leaves_out_is_asked_for_again_but_not_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counter()

    def complete(self: object, conversations: Any, seeds: Any, max_lines: int, max_tokens: int) -> list[str]:
        for messages in conversations:
            asked[messages[-1]["content"]] += 1
        return ["1. it is always the same\n" for _ in seeds]

    monkeypatch.setattr(Script, "complete", complete)
    assert write(tmp_path / "requests.jsonl", 2) == 1  # no two documents have one request
    assert max(asked.values()) == 2 * (1 + generate.FURTHER_ATTEMPTS)


def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, llm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "requests.jsonl"
    with pytest.raises(InputError, match="generate 0: give at least 1"):
        write(path, 0)
    monkeypatch.undo()
    with pytest.raises(InputError, match="no chat template"):
        generate_requests(DOCUMENTS, load_llm(str(llm_folder)), path)
    assert not path.exists()
    path.write_text('{"_id": "1"}\n{"text": "fine"}\n')
    monkeypatch.setattr(generate, "Writer", Script)
    with pytest.raises(InputError, match="line 1: no request"):
        write(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write(tmp_path / "file" / "requests.jsonl")


def test_a_real_llm_may_write_anything(tmp_path: Path, llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(generate, "TOKENS_PER_LINE", 4)
    shutil.copytree(llm_folder, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text("{% for m in messages %}<s>{{ m.content }}{% endfor %}<s>")
    llm = load_llm(str(tmp_path / "chat"), device="cpu", dtype="float32")
    messages = [{"role": "system", "content": "find"}, {"role": "user", "content": "the lamp"}]
    monkeypatch.setattr(generate, "conversation", lambda style, text: messages)
    path = tmp_path / "requests.jsonl"
    assert generate_requests(DOCUMENTS, llm, path, 2) == len(read(path))


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ("1. It rains\n2) I'm wet\n\n3: **Help**\n", ["It rains", "I'm wet", "Help"]),
        ('- "Let me in"\n• “Now!”\n(4) 3 apples\n', ["Let me in", "Now!", "3 apples"]),
        ('Say "yes"\n  two   spaces \nwhat was cut o', ['Say "yes"', "two spaces"]),
        ("", []),
    ],
)
def test_lines_lose_numbers_and_quotes_around_them(answer: str, lines: list[str]) -> None:
    assert parse_lines(answer) == lines


@pytest.mark.parametrize(
    ("text", "style", "fault"),
    [
        ("It is dark in here", "situation", None),
        ("I cannot see the rooms", "situation", "shares a word"),
        ("I cannot see the rooms", "question", None),
        ("Turn on the lamp", "command", "name"),
        ("Turn on the lamps", "command", None),
        ("dark", "command", "too short"),
        ("so dark " * 40, "command", "too long"),
        ("Here are five messages:", "command", "no whole sentence"),
        ("a half \ufffd character", "command", "no whole sentence"),
    ],
)
def test_what_makes_a_request_unusable(text: str, style: str, fault: str | None) -> None:
    found = why_unusable(text, DOCUMENTS[0], style)
    assert found is None if fault is None else fault in str(found)


def test_content_words_are_compared_by_their_beginnings() -> None:
    assert content_words("Reporting a share of REPORTS") == content_words("he reported and shares")
    assert not content_words("what would you do with that?")


def test_every_style_has_an_instruction_and_examples_without_a_shared_word() -> None:
    assert set(generate.STYLES) == set(INSTRUCTIONS)
    for text, styles in EXAMPLES.items():
        document = Document("example", text)
        assert set(styles) == set(INSTRUCTIONS)
        for style, requests in styles.items():
            assert len(requests) == LINES
            assert {request: why_unusable(request, document, style) for request in requests} == dict.fromkeys(requests)
    first, second = conversation("situation", "one"), conversation("situation", "two")
    assert first[:-1] == second[:-1] and first[-1] == {"role": "user", "content": "one"}
