import logging

import pytest

from rabtriever.mcp.plain import Formatter, printable, without_keys


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("403 for url 'http://me:SECRET@host:80/sse?key=SECRET'", "403 for url 'http://host:80/...'"),
        ("https://host/s/SECRET/mcp is away", "https://host/... is away"),
        ("http://[SECRET", "http://..."),
        ("nothing at http://host:80", "nothing at http://host:80"),
    ],
)
def test_urls_lose_what_may_be_a_key(text, shown):
    assert without_keys(text) == shown


def test_what_a_terminal_would_obey_or_hide_is_an_escape():
    assert printable("a\x1b[2K\rb\u202e\né") == "a\\x1b[2K\\rb\\u202e\\né"


def test_records_with_what_libraries_say_of_an_error():
    try:
        raise ValueError("http://host/?key=SECRET")
    except ValueError as error:
        record = logging.LogRecord("mcp", logging.ERROR, "", 1, "tool \x1b", (), (type(error), error, None))
    said = Formatter("%(message)s").format(record)
    assert said.startswith("tool \\x1b\n") and said.endswith("ValueError: http://host/...") and "SECRET" not in said
