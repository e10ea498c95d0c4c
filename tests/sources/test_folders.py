"""Folders of skills and of Markdown."""

import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.sources import read_source
from rabtriever.sources.markdown import FILE_CHARACTERS
from rabtriever.sources.skills import SKILL_CHARACTERS


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_skill_is_its_description_and_then_its_body(tmp_path):
    write(tmp_path / "home" / "wipe" / "SKILL.md", "---\nname: wipe-up\ndescription: Wipes.\n---\n# How\nGently.\n")
    write(tmp_path / "plain" / "SKILL.md", "Only a body.")
    write(tmp_path / "plain" / "reference.md", "belongs to the skill")
    write(tmp_path / ".git" / "SKILL.md", "no skill")
    write(tmp_path / "node_modules" / "x" / "SKILL.md", "no skill")
    assert list(read_source(tmp_path)) == [
        Document("home/wipe", "Wipes.\n# How\nGently.", "wipe-up", {"name": "wipe-up", "path": "home/wipe"}),
        Document("plain", "Only a body.", "plain", {"name": "plain", "path": "plain"}),
    ]
    (only,) = read_source(tmp_path / "home" / "wipe")
    assert only.id == "wipe-up"


def test_a_long_body_is_cut_and_the_description_is_not(tmp_path):
    write(tmp_path / "s" / "SKILL.md", f"---\ndescription: {'d' * 3000}\n---\n{'b' * 9000}")
    (skill,) = read_source(tmp_path)
    assert skill.text.startswith("d" * 3000 + "\nb") and len(skill.text) == SKILL_CHARACTERS


@pytest.mark.parametrize(
    ("front", "fault"),
    [
        ("license: MIT\ndescription: Use when: asked", r"SKILL\.md, line 3: malformed YAML .*quote values"),
        ("name: [a]", r"name is \['a'\]"),
        ("- a", "front matter is no mapping"),
    ],
)
def test_front_matter_that_cannot_be_read(tmp_path, front, fault):
    write(tmp_path / "s" / "SKILL.md", f"---\n{front}\n---\n")
    with pytest.raises(InputError, match=fault):
        list(read_source(tmp_path))


def test_a_short_markdown_file_is_one_document(tmp_path):
    write(tmp_path / "a.md", "# Lamps ##\n\nGive light.\n\n## More\nOf it.\n")
    write(tmp_path / "b" / "c.md", "---\ntitle: Ropes\n---\nTie things.\n# Not the title\n")
    write(tmp_path / "b" / "d.md", "plain\n")
    assert list(read_source(tmp_path)) == [
        Document("a.md", "Give light.\n\n## More\nOf it.", "Lamps", {"path": "a.md"}),
        Document("b/c.md", "Tie things.\n# Not the title", "Ropes", {"path": "b/c.md"}),
        Document("b/d.md", "plain", "d", {"path": "b/d.md"}),
    ]


def test_a_long_markdown_file_is_divided_at_its_headings(tmp_path):
    code = "```sh\n# a comment\n```"
    text = f"# Guide\nintro\n## Set up, *fast*\n{code}\n### Empty\n## Use\n{'x ' * FILE_CHARACTERS}\n## Use\nagain\n"
    write(tmp_path / "guide.md", text)
    found = list(read_source(tmp_path))
    assert [(one.id, one.title) for one in found] == [
        ("guide.md", "Guide"),
        ("guide.md#set-up-fast", "Guide > Set up, *fast*"),
        ("guide.md#use", "Guide > Use"),
        ("guide.md#use-1", "Guide > Use"),
    ]
    assert found[1].text == code and found[3].text == "again"
