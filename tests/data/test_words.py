import pytest

from rabtriever.data.words import words


@pytest.mark.parametrize("name", ["createIssue", "create_issue", "create-issue", "CreateIssues", "create.issue"])
def test_a_name_has_the_same_words_in_every_spelling(name):
    assert words(name) == ["create", "issue"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HTTPServer getHTTPCode", ["http", "server", "get", "http", "code"]),
        ("a process, of_PODs listIDs2", ["a", "process", "of", "pod", "list", "ids2"]),
        ("DNSServer URLs ACLsOf", ["dns", "server", "url", "acl", "of"]),
        ("r\u00e9sum\u00e9s \u5929\u6c17", ["r\u00e9sum\u00e9", "\u5929\u6c17"]),
    ],
)
def test_words(text, expected):
    assert words(text) == expected
