"""What a source is, duplicates, and what no index would take."""

import json
import zipfile

import pytest
from tiny import write_beir

from rabtriever.data import Document, load_data
from rabtriever.errors import InputError, NotFoundError
from rabtriever.sources import load_source, read_source
from rabtriever.sources.places import MAX_NESTING, read_json

ROWS = [{"_id": "a", "title": "A", "text": "first"}, {"_id": "b", "text": "second"}]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def ids(source, **columns):
    return [document.id for document in read_source(source, **columns)]


def test_a_beir_folder_and_its_zip_are_the_same(tmp_path, tiny_data):
    folder = write_beir(tmp_path / "tiny", tiny_data)
    documents = list(tiny_data.documents.values())
    assert list(read_source(folder)) == documents
    for name, root in (("flat.zip", folder), ("tiny.zip", folder.parent)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(root))
        assert list(read_source(tmp_path / name)) == documents
    assert load_data(tmp_path / "tiny.zip") == load_data(folder) == tiny_data


def test_a_zip_without_a_corpus_and_one_that_is_none(tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(NotFoundError, match=r"empty\.zip.*corpus\.jsonl is missing"):
        ids(tmp_path / "empty.zip")
    with pytest.raises(InputError, match="not a zip file"):
        ids(write(tmp_path / "text.zip", "no zip"))


def test_a_source_is_loaded_as_a_data_set_without_queries(tmp_path):
    data = load_source(write(tmp_path / "rows.json", ROWS))
    assert data.name == "rows" and not data.queries and not data.qrels
    assert data.documents["a"] == Document("a", "first", "A")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("rows.json", [], r"rows\.json: no documents"),
        ("rows.json", {"a": 1}, "neither tools, mcpServers"),
        ("rows.json", "{", "malformed JSON .* line 1, column 2"),
        ("rows.yaml", "a: [", r"rows\.yaml, line \d+: malformed YAML"),
        ("rows.json", "[" * 100_000, "nested too deep"),
        ("rows.txt", "text", "of no kind that can be read"),
        ("rows.json", [{"id": "a", "text": " "}], "item 1: document 'a' has neither title nor text"),
        ("rows.json", '[{"id": "a", "text": "\\ud83d"}]', "item 1: document 'a' holds half of a surrogate"),
        ("rows.json", [{"id": "a", "text": "x", "size": 2**70}], "item 1: metadata of document 'a': a number beyond"),
        ("rows.json", [1], "item 1: not a JSON object"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, fault):
    with pytest.raises(InputError, match=fault):
        ids(write(tmp_path / name, content))


def test_nothing_there(tmp_path):
    with pytest.raises(NotFoundError, match="no such file or folder"):
        ids(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"neither corpus\.jsonl nor SKILL\.md"):
        ids(tmp_path)


def test_a_duplicate_is_named_with_both_places(tmp_path):
    rows = [*ROWS, {"_id": "a", "text": "again"}]
    with pytest.raises(InputError, match=r"'a': .*rows\.json, item 3 and .*rows\.json, item 1"):
        ids(write(tmp_path / "rows.json", rows))


def test_a_byte_order_mark_is_no_part_of_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode())
    assert ids(path) == ["a", "b"]


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_nesting_up_to_a_limit(tmp_path, suffix):
    def nested(depth):
        return write(tmp_path / f"rows.{suffix}", "[" * depth + "]" * depth)

    assert read_json(nested(MAX_NESTING))
    for depth in (MAX_NESTING + 1, 50_000):
        with pytest.raises(InputError, match="nested too deep"):
            read_json(nested(depth))
    assert read_json(write(tmp_path / f"one.{suffix}", "1")) == 1


def test_a_yaml_value_that_its_tag_does_not_allow(tmp_path):
    for value in ("!!bool maybe", "!!int ''"):
        with pytest.raises(InputError, match="malformed YAML"):
            read_json(write(tmp_path / "rows.yaml", value))


@pytest.mark.parametrize("name", ["rows.json", "rows.csv", "rows.jsonl", "rows.zip"])
def test_a_file_that_the_system_refuses(tmp_path, name, monkeypatch):
    path = write(tmp_path / name, "")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("io.open", refuse)  # what pathlib calls
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=rf"{name}: .*(Permission denied|PermissionError)"):
        ids(path)


def test_a_zip_that_cannot_be_unpacked(tmp_path):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("corpus.jsonl", json.dumps({"_id": "a", "text": "hello " * 500}) + "\n")
    whole = path.read_bytes()
    central = whole.index(b"PK\x01\x02")
    # A flipped bit of the data; an encrypted member; a way of packing that there is not.
    for place, value in ((60, whole[60] ^ 0xFF), (central + 8, 1), (central + 10, 77)):
        broken = bytearray(whole)
        broken[place] = value
        path.write_bytes(bytes(broken))
        with pytest.raises(InputError, match=r"z\.zip.*cannot be read"):
            ids(path)
    (tmp_path / "Y.ZIP").write_bytes(whole)
    assert ids(tmp_path / "Y.ZIP") == ["a"]
