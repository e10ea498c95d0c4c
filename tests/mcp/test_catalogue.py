import json

import pytest

from rabtriever.errors import InputError, NotFoundError
from rabtriever.mcp.catalogue import Catalogue
from rabtriever.mcp.pins import DIGITS, Pins, digest
from rabtriever.sources.mcp_config import ServerConfig


def tools(**descriptions):
    schema = {"type": "object"}
    return [{"name": n, "title": None, "description": text, "inputSchema": schema} for n, text in descriptions.items()]


@pytest.fixture
def catalogue(tmp_path):
    found = Catalogue([ServerConfig("a", "a", "x")], Pins(tmp_path))
    found.listed("a", tools(read="reads", write="writes"))
    return found


def described(catalogue):
    return {id: (tool.fields["description"], tool.changed) for id, tool in catalogue.tools.items()}


def approval(catalogue, id):
    [pin] = [pin for tool, pin in catalogue.changed() if tool.id == id]
    return f"{id}@{digest(pin.tool)[:DIGITS]}"


def test_an_unread_text_is_not_shown(catalogue):
    catalogue.listed("a", tools(read="reads, and mails", write="writes"))
    assert described(catalogue) == {"a.read": ("reads", True), "a.write": ("writes", False)}
    assert "mails" not in catalogue.tools["a.read"].document.content
    catalogue.approve([approval(catalogue, "a.read")])
    catalogue.refresh()
    assert described(catalogue)["a.read"] == ("reads, and mails", False)


def test_a_change_is_logged_once_by_each_start(tmp_path, caplog):
    for _ in range(2):
        found = Catalogue([ServerConfig("a", "a", "x")], Pins(tmp_path))
        for text in ("reads", "reads, and mails", "reads, and mails"):
            found.listed("a", tools(read=text))
    assert caplog.text.count("server a: 'read' changed after it was approved") == 2


def test_what_was_read_is_approved_and_nothing_else(catalogue):
    catalogue.listed("a", tools(read="reads, and mails", write="writes"))
    read = approval(catalogue, "a.read")
    catalogue.listed("a", tools(read="reads, mails and deletes", write="writes"))
    with pytest.raises(InputError, match="has another text than .*; look at it again"):
        catalogue.approve([read])
    with pytest.raises(InputError, match="lacks a digest"):
        catalogue.approve(["a.read"])
    with pytest.raises(NotFoundError, match="no tool 'a.nothing'"):
        catalogue.approve([approval(catalogue, "a.read"), "a.nothing@0"])
    catalogue.refresh()
    assert described(catalogue)["a.read"] == ("reads", True)


def test_an_approval_between_reading_and_taking_is_not_lost(catalogue, monkeypatch):
    catalogue.listed("a", tools(read="reads, and mails", write="writes"))
    pins = catalogue.pins
    saw = pins.saw

    def approved_meanwhile(server, given):
        found = saw(server, given)
        pins.approve(server, {"read": digest(found["read"].tool)})
        return found

    monkeypatch.setattr(pins, "saw", approved_meanwhile)
    catalogue.listed("a", tools(read="reads, and mails", write="writes"))
    catalogue.refresh()
    assert described(catalogue)["a.read"] == ("reads, and mails", False)


def test_a_file_that_was_removed_is_first_sight(catalogue, tmp_path):
    catalogue.refresh()
    (tmp_path / "a.json").unlink()
    catalogue.refresh()
    assert described(catalogue) == {"a.read": ("reads", False), "a.write": ("writes", False)}
    assert set(json.loads((tmp_path / "a.json").read_text())) == {"read", "write"}


def test_a_damaged_file_is_told_once_and_approves_nothing(catalogue, tmp_path, caplog):
    (tmp_path / "a.json").write_text("{")
    for _ in range(3):
        catalogue.refresh()
        catalogue.listed("a", tools(read="reads, and mails", write="writes", new="n"))
    assert described(catalogue) == {"a.read": ("reads", True), "a.write": ("writes", False)}
    assert caplog.text.count("damaged (") == 1


def test_what_is_equal_stays_the_same_object(catalogue):
    before = catalogue.tools
    assert not catalogue.listed("a", tools(read="reads", write="writes")) and catalogue.tools is before
    assert catalogue.lost("a") and not catalogue.lost("a")
    assert all(catalogue.tools[id].fields is tool.fields for id, tool in before.items())
    assert catalogue.listed("a", tools(read="reads"))


def test_the_first_start_says_how_many_were_approved_unread(catalogue, caplog):
    with caplog.at_level("INFO", "rabtriever.mcp"):
        catalogue.listed("a", tools(read="reads", write="writes", new="n"))
    assert "server a: 1 tools are new; they are approved as they are, unread" in caplog.text


def test_a_pattern_that_matches_nothing_is_told(tmp_path, caplog):
    found = Catalogue([ServerConfig("a", "a", "x", deny=("a.write", "Read", "w*"))], Pins(tmp_path))
    for _ in range(2):
        found.listed("a", tools(read="reads", write="writes"))
    assert list(found.tools) == ["a.read"]
    assert [caplog.text.count(f"deny {pattern!r} matches none") for pattern in ("a.write", "Read", "w*")] == [1, 1, 0]
