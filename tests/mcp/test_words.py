import numpy as np
import pytest

from rabtriever.data.words import words
from rabtriever.mcp.catalogue import Tool
from rabtriever.mcp.words import K1, B, Words

TOOLS = {
    "github.create_issue": "Opens an issue in a repository",
    "gitlab.create_issue": "Opens an issue",
    "github.list_issues": "Lists the issues of a repository",
    "clock.getCurrentTime": "Tells the time in a city",
    "clock.convert": "Converts a time between cities",
}


@pytest.fixture
def index(make_tools):
    found = Words()
    found.use(make_tools(TOOLS))
    return found


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        ("create_issue", ["github.create_issue", "gitlab.create_issue"]),
        ("gitlab.create_issue", ["gitlab.create_issue"]),
        ("Create issue", ["github.create_issue", "gitlab.create_issue"]),
        ("createIssue", ["github.create_issue", "gitlab.create_issue"]),
        ("please run `gitlab.create_issue`, now", ["gitlab.create_issue"]),
        ("what does getCurrentTime return?", ["clock.getCurrentTime"]),
        ("clock get current time", ["clock.getCurrentTime"]),
        ("CONVERT", ["clock.convert"]),
        ("convert 3 pm to UTC", []),  # a word that is also a name, in a sentence
        ("issue", []),
        ("", []),
    ],
)
def test_names_in_a_request(index, request_, found):
    assert index.named(request_) == found


def test_a_title_does_not_take_a_names_place():
    def tool(id, title=None):
        fields = {"name": id.partition(".")[2], "title": title, "description": "", "inputSchema": {}}
        return Tool(id, id.partition(".")[0], fields["name"], fields, changed=False, available=True)

    found = Words()
    tools = [tool("evil.exfiltrate", "create_issue"), tool("evil.y", "github.get_user"), tool("github.create_issue")]
    tools += [tool("github.getUser"), tool("github.get_user")]
    found.use({one.id: one for one in tools})
    assert found.named("create_issue") == ["github.create_issue", "evil.exfiltrate"]
    assert found.named("run create_issue now") == ["github.create_issue"]
    assert found.named("get_user") == ["github.get_user", "github.getUser"]
    assert found.named("getUser") == ["github.getUser", "github.get_user"]
    assert found.named("github.get_user") == ["github.get_user", "github.getUser", "evil.y"]


def test_every_tool_is_found_by_its_names(index):
    for id, tool in index.tools.items():
        assert index.named(id)[0] == id and id in index.named(tool.name)


def test_words_take_names_apart():
    found = words("getHTTPCode list_issues v2 São glass")
    assert found == ["get", "http", "code", "list", "issue", "v2", "são", "glass"]


def test_bm25_by_its_definition(index):
    request = "issues of a city repository"
    texts = [words(f"{tool.name} {tool.document.content}") for tool in index.tools.values()]
    mean, scores = np.mean([len(text) for text in texts]), dict.fromkeys(index.tools, 0.0)
    for word in words(request):
        n = sum(word in text for text in texts)
        rarity = np.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
        for id, text in zip(scores, texts, strict=True):
            often = text.count(word)
            scores[id] += rarity * often * (K1 + 1) / (often + K1 * (1 - B + B * len(text) / mean))
    expected = sorted((id for id in scores if scores[id]), key=lambda id: -scores[id])
    assert index.ranked(request) == expected and expected[0] == "github.list_issues"
    assert index.ranked("nothing shares zebra") == []


def test_a_changed_text_is_found_by_its_new_words(index, make_tools):
    index.use(make_tools({**TOOLS, "clock.convert": "Boils an egg"}))
    assert index.ranked("egg") == ["clock.convert"]
    index.use({})
    assert index.ranked("egg") == [] and index.named("convert") == []
