import pytest

from rabtriever.index.hits import Hit
from rabtriever.mcp.search import ToolSearch

TOOLS = {
    "github.create_issue": "Opens an issue",
    "gitlab.create_issue": "Opens an issue",
    "clock.time": "Tells the time",
    "lamp.on": "Switches the light on",
    "lamp.off": "Switches the light off",
}


class Ranked:
    """Vectors that rank tools in a given order."""

    def __init__(self, *ids, fits=True, waiting=()):
        self.index, self._ids, self._fits, self._waiting = object(), ids, fits, set(waiting)

    def missing(self, tools):
        return self._waiting

    def search(self, request, tools, k):
        hits = [Hit(id, 0.5, 0.0, "", {}) for id in self._ids if id not in self._waiting]
        return hits[:k], self._fits


def ids(answer):
    return [found.tool.id for found in answer.found]


@pytest.fixture
def tools(make_tools):
    return make_tools(TOOLS)


def test_by_words_until_there_are_vectors(tools):
    answer = ToolSearch().search("which tool tells the time", 5, tools)
    assert ids(answer)[0] == "clock.time" and {found.match for found in answer.found} == {"words"}
    assert (answer.fits, answer.total) == (None, 5) and answer.found[0].probability is None
    vectors = Ranked()
    vectors.index = None  # the model is still loading
    assert ids(ToolSearch(vectors).search("time", 5, tools)) == ["clock.time"]
    assert ToolSearch().search("zebra", 5, tools).found == []


def test_by_meaning_then(tools):
    order = ["lamp.on", "lamp.off", "clock.time", "github.create_issue", "gitlab.create_issue"]
    answer = ToolSearch(Ranked(*order)).search("it is dark", 3, tools)
    assert ids(answer) == order[:3] and answer.matched == 5 and answer.fits is True
    assert [found.match for found in answer.found] == ["meaning"] * 3 and answer.found[0].probability == 0.5
    assert ToolSearch(Ranked(*order, fits=False)).search("it is dark", 3, tools).fits is False


def test_names_come_first_whatever_the_model_says(tools):
    search = ToolSearch(Ranked("lamp.on", "lamp.off", "clock.time", fits=False))
    answer = search.search("create_issue", 4, tools)
    assert ids(answer) == ["github.create_issue", "gitlab.create_issue", "lamp.on", "lamp.off"]
    assert [found.match for found in answer.found] == ["name", "name", "meaning", "meaning"] and answer.fits is True
    assert ids(search.search("lamp.off", 2, tools)) == ["lamp.off", "lamp.on"]


def test_tools_without_vectors_stand_where_their_words_rank_them(tools):
    search = ToolSearch(Ranked("lamp.off", "clock.time", "lamp.on", fits=False, waiting=["github.create_issue"]))
    answer = search.search("opens", 5, tools)  # by words the first of all
    assert ids(answer) == ["lamp.off", "github.create_issue", "clock.time", "lamp.on"]
    assert answer.fits is None  # one was not judged
    assert ids(search.search("light", 5, tools)) == ["lamp.off", "clock.time", "lamp.on"]  # it shares no word


def test_a_failing_model_is_no_error(tools, caplog):
    class Failing(Ranked):
        def search(self, request, tools, k):
            raise RuntimeError("out of memory")

    answer = ToolSearch(Failing()).search("tells the time", 1, tools)
    assert ids(answer) == ["clock.time"] and answer.fits is None
    assert "the model failed, this search goes by words (RuntimeError: out of memory)" in caplog.text
