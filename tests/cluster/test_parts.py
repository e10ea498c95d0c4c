"""Parts together hold every document once, in the order in which one process reads them."""

import json

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rabtriever.cluster.parts import MAX_PARTS, SourceFile, make_parts, part_bytes, source_files
from rabtriever.cluster.rows import read_documents, require_documents
from rabtriever.data import Document
from rabtriever.errors import InputError, NotFoundError
from rabtriever.index import Index
from rabtriever.sources import read_source
from rabtriever.sources.tables import Columns

ROWS = [
    {"_id": f"d{i}", "title": "ö" * (i % 4), "text": "word " * (i * i % 37) + str(i), "n": i, "tags": ["a"] * (i % 3)}
    for i in range(60)
]
SIZES = (1, 7, 100, 333, 10**6)


def read(source, size, columns=Columns()):  # noqa: B008
    parts = make_parts(source_files(source), size)
    found = [placed for part in parts for placed in read_documents(part, columns)]
    positions = [position for position, _, _ in found]
    assert positions == sorted(set(positions))
    return [document for _, _, document in found]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_jsonl(tmp_path, size, end):
    lines = [json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(ROWS)]
    lines[5:5] = ["", "   "]
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(("\ufeff" + end.join(lines)).encode())  # no end of the last line
    assert read(path, size) == list(read_source(path))
    path.write_bytes((end.join(lines) + end).encode())
    assert read(path, size) == list(read_source(path))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("row_group", [7, 20, 1000])
def test_parquet(tmp_path, size, row_group):
    table = pa.Table.from_pylist([{**row, "image": b"x"} for row in ROWS])
    pq.write_table(table, tmp_path / "corpus.parquet", row_group_size=row_group)
    with pytest.warns(UserWarning, match="columns left out"):
        expected = list(read_source(tmp_path / "corpus.parquet"))
    assert read(tmp_path / "corpus.parquet", size) == expected


@pytest.mark.parametrize("size", SIZES)
def test_lance(tmp_path, size):
    path = tmp_path / "corpus.lance"
    lance.write_dataset(pa.Table.from_pylist(ROWS[:40]), path)
    lance.write_dataset(pa.Table.from_pylist(ROWS[40:]), path, mode="append")
    lance.dataset(path).delete("n = 3")
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS if row["n"] != 3))
    assert read(path, size) == list(read_source(tmp_path / "corpus.jsonl"))


def test_an_index(tmp_path, retriever):
    documents = [Document(f"d{i}", f"find the lamp {i}", "lamp", {"n": i, "deep": {"a": [1, None]}}) for i in range(30)]
    index = Index.build(tmp_path / "index", retriever, documents[:20])
    index.upsert([documents[3]])
    index.add(documents[20:])
    index.optimize()
    assert [document.id for document in read(tmp_path / "index", 2048)] == index.ids()
    assert sorted(read(tmp_path / "index", 2048), key=lambda d: int(d.id[1:])) == documents


def test_a_beir_folder(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({**row, "metadata": {"a": 1}}) + "\n" for row in ROWS))
    (tmp_path / "queries.jsonl").write_text("")
    assert read(tmp_path, 300) == list(read_source(tmp_path))
    assert read(tmp_path, 300)[0].metadata == {"a": 1}


def test_a_folder_of_files_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "b" / "_hidden").mkdir(parents=True)
    (tmp_path / "b" / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[20:40]))
    (tmp_path / "b" / "_hidden" / "y.jsonl").write_text("broken")
    (tmp_path / "notes.txt").write_text("no table")
    pq.write_table(pa.Table.from_pylist(ROWS[:20]), tmp_path / "a.parquet")
    lance.write_dataset(pa.Table.from_pylist(ROWS[40:]), tmp_path / "c.lance")
    assert [document.id for document in read(tmp_path, 500)] == [row["_id"] for row in ROWS]


def test_columns(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"key": 7, "body": "a text", "_id": "other"}))
    columns = Columns("key", "body")
    assert read(tmp_path / "corpus.jsonl", 100, columns) == list(read_source(tmp_path / "corpus.jsonl", "key", "body"))


def test_a_bad_row_is_one_failure(tmp_path):
    lines = [json.dumps(row) for row in ROWS[:4]]
    lines[1], lines[2] = "{broken", json.dumps({"_id": "blank", "text": " "})
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    found = read(tmp_path / "corpus.jsonl", 50)
    assert [getattr(one, "id", "") for one in found] == ["d0", "", "", "d3"]
    assert f"{tmp_path}/corpus.jsonl, byte {len(lines[0]) + 1}: malformed JSON" in str(found[1])


def test_the_size_of_parts():
    def corpus(size):
        return [SourceFile("a.jsonl", "jsonl", size, 1, 1, 0)]

    for size in (10**3, 10**6, 10**7, 10**9, 10**12):
        parts = make_parts(corpus(size), part_bytes(corpus(size), 4))
        assert parts[-1].last == size
        assert len(parts) <= MAX_PARTS + 1
        assert len(parts) >= 32 or size == 10**3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tools.json", "[]", "neither JSONL, Parquet nor Lance"),
        ("tools.jsonl", '{"name": "a", "inputSchema": {}, "description": "x"}', "a list of tools"),
        ("bad.jsonl", "{", "malformed JSON"),
        ("bad.parquet", "no", "cannot be read"),
    ],
)
def test_other_sources(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        require_documents(make_parts(source_files(tmp_path / name), 100)[0], Columns())


def test_nothing_there(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        source_files(tmp_path / "nothing.jsonl")
    with pytest.raises(InputError, match="neither"):
        source_files("hf:owner/name")
    with pytest.raises(InputError, match="neither"):
        source_files(tmp_path)
