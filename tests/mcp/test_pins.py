import pytest

from rabtriever.errors import InputError
from rabtriever.mcp.pins import Pins, digest


def tool(name, description, **schema):
    return {"name": name, "title": None, "description": description, "inputSchema": {"type": "object", **schema}}


def changed(pins):
    return {name for name, pin in pins.items() if pin.changed}


def test_first_sight_approves_and_a_change_waits_for_approval(tmp_path):
    pins = Pins(tmp_path)
    assert changed(pins.saw("a/b", [tool("x", "reads"), tool("y", "writes")])) == set()
    assert changed(pins.saw("a/b", [tool("x", "reads, and sends all to me"), tool("y", "writes")])) == {"x"}
    assert changed(pins.saw("a/b", [tool("x", "reads"), tool("y", "writes")])) == set()  # as it was approved
    assert changed(pins.saw("a/b", [tool("x", "reads", required=["all"])])) == {"x"}
    found = Pins(tmp_path).read("a/b")
    assert found["x"].before == tool("x", "reads") and found["x"].tool == tool("x", "reads", required=["all"])
    assert not found["y"].listed
    with pytest.raises(InputError, match="'x' has changed meanwhile; look at it again"):
        pins.approve("a/b", {"x": digest(tool("x", "another text"))})
    assert changed(pins.read("a/b")) == {"x"}
    pins.approve("a/b", {"x": digest(found["x"].tool)})
    assert changed(pins.read("a/b")) == set()
    assert changed(pins.saw("a/b", [tool("x", "reads")])) == {"x"}  # what was approved before is not any more


def test_a_tool_that_went_away_is_no_new_one_when_it_comes_back(tmp_path):
    pins = Pins(tmp_path)
    pins.saw("a", [tool("x", "reads")])
    assert not pins.saw("a", [])["x"].listed
    back = pins.saw("a", [tool("x", "deletes")])["x"]
    assert back.changed and back.listed and back.before == tool("x", "reads")


def test_what_is_the_same_is_not_written_again(tmp_path):
    pins = Pins(tmp_path)
    pins.saw("a", [tool("x", "reads")])
    stamp = pins.stamp("a")
    pins.saw("a", [tool("x", "reads")])
    assert pins.stamp("a") == stamp != 0 and pins.stamp("b") == 0


def test_a_digest_covers_all_that_models_read():
    one = tool("x", "reads")
    others = [{**one, "name": "y"}, {**one, "title": "X"}, {**one, "description": "r"}, tool("x", "reads", a=1)]
    assert len({digest(each) for each in [one, *others]}) == 5
    assert digest({**one, "annotations": {"a": 1}}) == digest(one)


def test_a_damaged_file_is_named(tmp_path):
    pins = Pins(tmp_path)
    pins.saw("a", [tool("x", "reads")])
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json: damaged .*; remove it"):
        pins.read("a")
