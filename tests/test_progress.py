"""Progress is for people: at a terminal, for what takes long, and not where a program reads."""

import io
import sys
from itertools import count

import pytest

from rabtriever import progress
from rabtriever.cli import main


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    """A terminal in place of stderr, once it is called."""
    monkeypatch.setattr(progress, "_hidden", False)

    def replaced(stream=None):
        monkeypatch.setattr(sys, "stderr", stream or Terminal())
        return sys.stderr

    return replaced


@pytest.fixture
def slow(monkeypatch):
    """A clock by which a second passes whenever it is read."""
    from tqdm import std

    ticks = count()
    monkeypatch.setattr(std, "time", lambda: float(next(ticks)))


@pytest.fixture
def quick(monkeypatch):
    from tqdm import std

    monkeypatch.setattr(std, "time", lambda: 0.0)


def test_what_takes_long_shows_a_bar_that_goes(stderr, slow):
    terminal = stderr()
    assert list(progress.track(range(5), "working")) == [0, 1, 2, 3, 4]
    shown = terminal.getvalue()
    assert "working" in shown and "/5" in shown and not shown.split("\r")[-1].strip()


def test_what_is_quick_shows_nothing(stderr, quick):
    terminal = stderr()
    assert list(progress.track(range(5), "working")) == [0, 1, 2, 3, 4]
    assert "working" not in terminal.getvalue()


def test_nothing_is_shown_to_programs(stderr, slow):
    terminal = stderr()
    assert progress.is_shown()
    progress.hide()
    progress.notice("converted once")
    assert list(progress.track(range(5), "working")) == [0, 1, 2, 3, 4]
    assert not terminal.getvalue() and not progress.is_shown()
    progress.hide(False)
    pipe = stderr(io.StringIO())
    assert not progress.is_shown()
    list(progress.track(range(5), "working"))
    assert not pipe.getvalue()


@pytest.mark.parametrize("asked", [True, False])
def test_who_calls_the_library_says_whether_it_is_shown(stderr, slow, asked):
    pipe = stderr(io.StringIO())
    list(progress.track(range(5), "working", shown=asked))
    assert ("working" in pipe.getvalue()) is asked


def test_a_notice_is_a_line(stderr):
    terminal = stderr()
    progress.notice("converted once")
    assert terminal.getvalue() == "converted once\n"


@pytest.mark.parametrize(("argv", "shown"), [([], True), (["--json"], False)])
def test_a_command_shows_it_unless_a_program_reads(stderr, monkeypatch, argv, shown):
    found = []
    monkeypatch.setattr("rabtriever.cli.info.run", lambda args: found.append(progress.is_shown()))
    stderr()
    assert main(["info", "index", *argv]) == 0
    assert found == [shown]
