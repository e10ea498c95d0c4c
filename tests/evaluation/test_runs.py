"""TREC runs: what is written is what is read, in trec_eval's order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.errors import InputError
from rabtriever.evaluation import read_run
from rabtriever.evaluation.runs import run_file, sort_run

IDS = st.text("abß-_.7", min_size=1, max_size=4)
SCORES = st.floats(allow_nan=False, allow_infinity=False)


def write_run(path: Path, run: dict, tag: str) -> None:
    with run_file(path, tag) as write:
        for query, scores in run.items():
            write(query, scores)


def test_a_run_is_written_rank_by_rank(tmp_path: Path) -> None:
    write_run(tmp_path / "r.trec", {"q2": {"a": -0.5, "b": 1 / 3, "c": -0.5}, "q1": {"a": 2}}, "bm25")
    assert (tmp_path / "r.trec").read_bytes() == (
        b"q2 Q0 b 1 0.3333333333333333 bm25\nq2 Q0 c 2 -0.5 bm25\nq2 Q0 a 3 -0.5 bm25\nq1 Q0 a 1 2.0 bm25\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["r.trec"]


@given(run=st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=5), max_size=4))
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, run: dict) -> None:
    path = tmp_path_factory.mktemp("run") / "r.trec"
    write_run(path, run, "t")
    assert read_run(path) == run


def test_the_greater_id_wins_a_tie_and_zeros_of_either_sign_tie() -> None:
    assert sort_run({"d1": 0.0, "d10": 1.0, "d2": 1.0, "d3": -0.0}) == ["d2", "d10", "d3", "d1"]


def test_reading_ignores_rank_column_blank_lines_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "r.trec"
    path.write_bytes(b"\xef\xbb\xbfq1 Q0 a 9 1e-3 t\r\n\r\nq1\tQ0\tb\t1\t-2\tt\r\n")
    assert read_run(path) == {"q1": {"a": 0.001, "b": -2.0}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 b 1 2.0", r"line 2: 5 columns; a run has six"),
        ("q1 Q0 b 1 2.0 my tag", r"line 2: 7 columns"),
        ("q1 Q0 b 1 high t", r"line 2: score 'high' is not a finite number"),
        ("q1 Q0 b 1 nan t", r"line 2: score 'nan' is not a finite number"),
        ("q1 Q0 a 2 0.5 t", r"line 2: document 'a' is listed twice for query 'q1'"),
    ],
)
def test_faults_of_a_run_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "r.trec"
    path.write_text(f"q1 Q0 a 1 1.0 t\n{line}\n")
    with pytest.raises(InputError, match=r"r\.trec, " + message):
        read_run(path)


def test_a_missing_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.trec is missing"):
        read_run(tmp_path / "none.trec")


@pytest.mark.parametrize(
    ("run", "tag", "message"),
    [
        ({"q1": {"a": 1.0}, "q2": {"a": float("nan")}}, "t", "score of document 'a' is nan"),
        ({"q1": {"a": 1.0}, "q2": {"a": float("inf")}}, "t", "score of document 'a' is inf"),
        ({"q1": {"a": 1.0}, "q 2": {"a": 1.0}}, "t", "query id 'q 2' cannot stand in a TREC run"),
        ({"q1": {"two words": 1.0}}, "t", "document id 'two words' cannot stand"),
        ({"q1": {"": 1.0}}, "t", "document id '' cannot stand"),
        ({"q1": {"a": 1.0}}, "my tag", "tag 'my tag' cannot stand"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path: Path, run: dict, tag: str, message: str) -> None:
    path = tmp_path / "r.trec"
    path.write_text("old")
    with pytest.raises(InputError, match=message):
        write_run(path, run, tag)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("r.trec", "old")]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), run_file(tmp_path / "r.trec", "t") as write:
        write("q1", {"a": 1.0})
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
