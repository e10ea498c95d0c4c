"""Folders of skills and of Markdown."""

from time import process_time

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


def test_anchors_differ_as_on_github(tmp_path):
    headings = ("Foo", "Foo", "Foo 1", "Guide")
    write(tmp_path / "a.md", "# Guide\n\n" + "".join(f"## {heading}\n{'word ' * 200}\n" for heading in headings))
    found = [one.id for one in read_source(tmp_path)]
    assert found == ["a.md#foo", "a.md#foo-1", "a.md#foo-1-1", "a.md#guide-1"]


@pytest.mark.parametrize(
    ("line", "title"),
    [("# a ##  ", "a"), ("# C#", "C#"), ("#  a # b", "a # b"), ("# #", "f"), ("   ###### x\r", "x"), ("#x", "f")],
)
def test_headings(tmp_path, line, title):
    write(tmp_path / "f.md", f"{line}\ntext\n")
    assert next(iter(read_source(tmp_path))).title == title


def test_a_heading_of_many_spaces_takes_no_time(tmp_path):
    write(tmp_path / "a.md", f"# a{' ' * 300_000}b\ntext\n#{' ' * 300_000}\n")
    start = process_time()
    assert len(list(read_source(tmp_path))) == 1
    assert process_time() - start < 5  # the square of that many takes minutes


def test_links_to_folders_are_followed_once(tmp_path):
    folder, other = tmp_path / "skills", tmp_path / "other"
    write(folder / "b" / "SKILL.md", "own")
    write(other / "x" / "SKILL.md", "linked")
    (folder / "a").symlink_to(folder / "b")  # found without it
    (folder / "c").symlink_to(other)
    (folder / "up").symlink_to(tmp_path)  # holds all
    (other / "x" / "loop").symlink_to(other)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    assert [one.id for one in read_source(folder)] == ["b", "c/x"]
    (tmp_path / "link").symlink_to(folder)
    assert [one.id for one in read_source(tmp_path / "link")] == ["b", "c/x"]
