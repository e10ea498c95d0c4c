import json

import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError, NotFoundError
from rabtriever.evaluation.labelled_requests import LabelledRequest, read_labelled_requests

DOCUMENTS = [
    Document("home.light", "Switches a lamp.", "Lamp", {"name": "light"}),
    Document("shed.light", "Switches a torch.", "Torch", {"name": "light"}),
    Document("wipe", "Wipes up."),
]


def read(tmp_path, *rows):
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_labelled_requests(path, DOCUMENTS)


def test_documents_are_named_by_id_title_or_name(tmp_path):
    rows = [
        {"text": "dark", "relevant": ["home.light", "Torch"]},
        {"text": "spill", "tool": "wipe", "note": "ignored"},
        {"text": "both", "tools": ["Lamp", "home.light"]},
        {"text": "rome", "tools": []},
        {"text": "paris", "tool": None},
    ]
    assert read(tmp_path, *rows) == [
        LabelledRequest("dark", ("home.light", "shed.light")),
        LabelledRequest("spill", ("wipe",)),
        LabelledRequest("both", ("home.light",)),
        LabelledRequest("rome", ()),
        LabelledRequest("paris", ()),
    ]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "x", "tool": "home.lihgt"}, "line 1: the catalogue has no 'home.lihgt'; the nearest is 'home.light'"),
        ({"text": "x", "tool": "Torhc"}, "the nearest is 'shed.light'"),
        ({"text": "x", "tool": "light"}, "'light' is the name of 'home.light' and 'shed.light'; give the id"),
        ({"text": "x"}, "no relevant, tools or tool; name the right ones"),
        ({"text": "x", "tools": [1]}, r"tools is \[1\]; give an id"),
        ({"text": " ", "tool": "wipe"}, "missing or blank"),
        ({"text": "x", "tools": []}, "no request that something fits"),
    ],
)
def test_a_request_that_cannot_be_used(tmp_path, row, fault):
    with pytest.raises(InputError, match=fault):
        read(tmp_path, row)


def test_no_file(tmp_path):
    with pytest.raises(NotFoundError, match="is missing"):
        read_labelled_requests(tmp_path / "none.jsonl", DOCUMENTS)
