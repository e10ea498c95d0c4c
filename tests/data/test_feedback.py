"""Files of feedback: what is read, and how each fault is reported."""

import json
from datetime import UTC, datetime

import pytest

from rabtriever.data import FeedbackEvent, read_feedback
from rabtriever.errors import InputError, NotFoundError


def write(tmp_path, *lines):
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_feedback_is_read_in_file_order(tmp_path):
    path = write(
        tmp_path,
        {"query": "it is dark", "id": "lamp", "shown": ["rope", "lamp"], "succeeded": False, "time": 12.5},
        "",
        {"query": "it is dark", "document": "lamp", "succeeded": None, "user": "ignored"},
        {"query": "a song", "id": None, "shown": ["rope"], "time": None},
    )
    assert [vars(event) for event in read_feedback(path)] == [
        vars(FeedbackEvent("it is dark", "lamp", ("rope", "lamp"), False, 12.5)),
        vars(FeedbackEvent("it is dark", "lamp")),
        vars(FeedbackEvent("a song", None, ("rope",))),
    ]
    assert [vars(event) for event in read_feedback(str(path))] == [vars(event) for event in read_feedback(path)]


@pytest.mark.parametrize(
    "time",
    [
        1738324800,
        1738324800.0,
        "2025-01-31T12:00:00Z",
        "2025-01-31T12:00:00",
        "2025-01-31T13:00:00+01:00",
        "20250131T120000Z",
    ],
)
def test_a_time_is_a_number_or_iso_8601(tmp_path, time):
    (event,) = read_feedback(write(tmp_path, {"query": "a", "id": "lamp", "time": time}))
    assert event.time == datetime(2025, 1, 31, 12, tzinfo=UTC).timestamp() and isinstance(event.time, float)


GOOD = {"query": "it is dark", "id": "lamp"}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "malformed JSON"),
        ("[]", "not a JSON object; each line should be one"),
        ({"id": "lamp"}, "the query is missing or blank: give its text"),
        ({**GOOD, "query": " \n"}, "the query is missing or blank"),
        ({**GOOD, "query": 3}, "query is 3; it should be a string"),
        ({**GOOD, "query": "\ud800"}, "query holds half of a surrogate pair"),
        ({**GOOD, "id": 7}, "id is 7; it should be a string"),
        ({"query": "a", "document": ["lamp"]}, r"document is \['lamp'\]; it should be a string"),
        ({**GOOD, "shown": "lamp"}, "shown is 'lamp'; it should be a list"),
        ({**GOOD, "shown": ["a", 1]}, r"shown\[1\] is 1; it should be a string"),
        ({**GOOD, "shown": [None]}, r"shown\[0\] is empty: give a document's id"),
        ({**GOOD, "succeeded": 1}, "succeeded is 1; it should be a boolean"),
        ({**GOOD, "succeeded": "no"}, "succeeded is 'no'; it should be a boolean"),
        ({"query": "a"}, "no id and nothing shown: give the id"),
        ({"query": "a", "id": None, "shown": []}, "no id and nothing shown"),
        ({**GOOD, "time": "yesterday"}, "time is 'yesterday'; it should be seconds since 1970, or ISO 8601"),
        ({**GOOD, "time": True}, "time is True; it should be"),
        ({**GOOD, "time": [1]}, r"time is \[1\]; it should be"),
        ({**GOOD, "time": float("nan")}, "time is nan; it should be"),
        ({**GOOD, "time": 10**400}, "time is 1000"),
        ({**GOOD, "succeeded": float("nan")}, "succeeded is nan"),
    ],
)
def test_a_fault_is_one_line_that_names_file_and_line(tmp_path, line, fault):
    with pytest.raises(InputError, match=rf"feedback\.jsonl, line 3: {fault}") as error:
        read_feedback(write(tmp_path, GOOD, "", line, GOOD))
    assert "\n" not in str(error.value)


def test_a_missing_and_an_empty_file_are_named(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere.jsonl is missing: give a JSONL file of feedback"):
        read_feedback(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="feedback.jsonl is empty: give feedback"):
        read_feedback(write(tmp_path, "\n"))
