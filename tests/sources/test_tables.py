import csv
import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.sources import read_source

ROWS = [
    {"id": "1", "name": "lamp", "description": "gives light, twice\nor more", "room": "hall"},
    {"id": "2", "name": "rope", "description": 'ties "things"', "room": "shed"},
]
EXPECTED = [Document(r["id"], r["description"], r["name"], {"room": r["room"]}) for r in ROWS]


def write(path, rows):
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case _:
            with path.open("w", newline="", encoding="utf-8-sig") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_the_same_rows_are_the_same_documents_whatever_the_format(tmp_path, suffix):
    assert list(read_source(write(tmp_path / f"rows.{suffix}", ROWS))) == EXPECTED


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_columns_can_be_named(tmp_path, suffix):
    found = read_source(write(tmp_path / f"rows.{suffix}", ROWS), "name", "room", "description")
    expected = [Document(r["name"], r["room"], r["description"], {"id": r["id"]}) for r in ROWS]
    assert list(found) == expected


def test_usual_columns(tmp_path):
    rows = [
        {"_id": "a", "title": "T", "text": "x", "metadata": {"k": 1}, "n": 2},
        {"id": 7, "content": "y"},
        {"name": "tool", "description": "z", "other": None},
        {"_id": "only-title", "title": "T"},
    ]
    assert list(read_source(write(tmp_path / "rows.jsonl", rows))) == [
        Document("a", "x", "T", {"k": 1, "n": 2}),
        Document("7", "y"),
        Document("tool", "z", "tool"),
        Document("only-title", "", "T"),
    ]


def test_parquet_values_that_json_lacks(tmp_path):
    row = {
        "id": 1,
        "text": "x",
        "day": datetime.date(2020, 1, 2),
        "price": decimal.Decimal("1.50"),
        "gone": float("nan"),
    }
    found = list(read_source(write(tmp_path / "rows.parquet", [row])))
    assert found == [Document("1", "x", "", {"day": "2020-01-02", "price": "1.50"})]


@pytest.mark.parametrize(
    ("columns", "row", "fault"),
    [
        ({}, {"text": "x"}, "item 1: no column '_id' or 'id' or 'name'; there are text: name"),
        ({}, {"id": "a", "body": "x"}, "item 1: no column 'text' or 'description' or 'content'; there are id, body"),
        ({"title_column": "head"}, {"id": "a", "text": "x"}, "no column 'head'; there are id, text"),
        ({}, {"id": 1.5, "text": "x"}, "id is 1.5; give a string or an integer"),
        ({}, {"id": "", "text": "x"}, "id is ''"),
        ({}, {"id": "a", "text": 3}, "text is 3; it should be a text"),
    ],
)
def test_a_row_that_is_no_document(tmp_path, columns, row, fault):
    with pytest.raises(InputError, match=fault):
        list(read_source(write(tmp_path / "rows.json", [row]), **columns))


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("rows.csv", b"id,text\na,b,c\n", "line 2: not as many fields as the header, which has 2"),
        ("rows.csv", b"id,text\na\n", "line 2: not as many fields"),
        ("rows.csv", b'id,text\na,"b\n', "malformed CSV"),
        ("rows.csv", b"id,text\na,\xff\n", "not UTF-8"),
        ("rows.parquet", b"none", "not a Parquet file"),
    ],
)
def test_a_malformed_file(tmp_path, name, content, fault):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=fault):
        list(read_source(path))


def test_a_column_without_a_name_is_left_out(tmp_path):
    path = tmp_path / "pandas.csv"
    path.write_text(",id,text,room\n0,a,hello,hall\n1,b,world,shed\n")
    assert list(read_source(path)) == [
        Document("a", "hello", "", {"room": "hall"}),
        Document("b", "world", "", {"room": "shed"}),
    ]


def test_a_long_field(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"id,text\na,{'x' * 300_000}\n")
    assert len(next(iter(read_source(path))).text) == 300_000


def test_parquet_columns_of_bytes_are_left_out_and_told(tmp_path):
    day = datetime.date(2020, 1, 2)
    row = {
        "id": "a",
        "text": "x",
        "image": b"png",
        "parts": [{"raw": b"x"}],
        "days": [day, None],
        "room": {"since": day},
    }
    with pytest.warns(UserWarning, match="columns left out, .*: image, parts$"):
        (found,) = read_source(write(tmp_path / "rows.parquet", [row]))
    assert found.metadata == {"days": ["2020-01-02", None], "room": {"since": "2020-01-02"}}


def test_parquet_maps_and_durations(tmp_path):
    columns = {
        "id": pa.array(["a"]),
        "text": pa.array(["x"]),
        "sizes": pa.array([[("s", 1)]], pa.map_(pa.string(), pa.int64())),
        "took": pa.array([datetime.timedelta(seconds=5)]),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    (found,) = read_source(tmp_path / "rows.parquet")
    assert found.metadata == {"sizes": [["s", 1]], "took": "0:00:05"}
