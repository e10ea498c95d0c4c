import pytest

from rabtriever.data.context import DONE, MAX_HISTORY, MAX_STEP, MAX_USED, with_context


def test_a_request_alone_stays_as_it_is():
    for request in ("find the lamp", " two\nlines ", ""):
        assert with_context(request) == with_context(request, [], ()) == request


def test_turns_come_first_and_steps_last():
    turns, steps = ["Seeker: hello", "Supporter: hi"], ["find the coke", "pick up the coke"]
    assert with_context("go on", turns) == "Seeker: hello\nSupporter: hi\ngo on"
    assert with_context("go on", used=steps) == "go on\nDone so far: find the coke; pick up the coke"
    expected = "Seeker: hello\nSupporter: hi\ngo on\nDone so far: find the coke; pick up the coke"
    assert with_context("go on", turns, steps) == expected


def test_a_turn_and_a_step_are_one_line_and_blank_ones_none():
    assert with_context("go on", ["a\n\n b", " "], ["x\ny", ""]) == "a b\ngo on\nDone so far: x y"


@pytest.mark.parametrize("n", [1, 3, 8, 9, 50])
def test_the_oldest_are_left_out(n):
    turns, steps = (
        [f"turn {i:03d} ".ljust(50, "x") for i in range(n)],
        [f"step {i:03d}".ljust(40, "x") for i in range(n)],
    )
    *kept, request, done = with_context("request", turns, steps).split("\n")
    assert request == "request" and kept == turns[-len(kept) :]
    assert done.removeprefix(DONE).split("; ") == steps[-len(done.split("; ")) :]
    assert len(kept) == min(n, (MAX_HISTORY + 1) // 51)
    assert len(done.split("; ")) == min(n, (MAX_USED + 2) // 42)


def test_what_fills_the_budget_is_kept_whole():
    turns = ["a" * (MAX_HISTORY - 11), "b" * 10]
    assert with_context("request", turns) == "\n".join([*turns, "request"])
    assert with_context("request", ["c" + turns[0], turns[1]]) == f"{turns[1]}\nrequest"


def test_a_request_is_never_cut_and_the_newest_are_never_lost():
    request, turn, step = "r" * 5000, "begin " + "t" * 5000 + " end", "begin " + "s" * 5000 + " end"
    before, asked, done = with_context(request, ["old", turn], ["old", step]).split("\n")
    assert asked == request
    assert len(before) == MAX_HISTORY and before.endswith(" end")
    assert done.startswith(f"{DONE}old; begin s") and len(done) == len(f"{DONE}old; ") + MAX_STEP
